"""`fair` against `fifo`: on the traces that come with the product, and on 200 random ones."""

from __future__ import annotations

from functools import cache

import pytest

from llm_backend.replay.profile import Profile, load_profile
from llm_backend.replay.result import Result
from llm_backend.replay.shipped import SHIPPED, shipped_trace
from llm_backend.replay.simulate import Conditions, simulate
from llm_backend.switching.events import Rules
from tests.house.project import no_findings

SEEDS = 200
LONGER_WAITS = 1.1
"""How much longer the 95th percentile of interactive waits may be than under `fifo`."""


@cache
def profile() -> Profile:
    return load_profile("rtx5080-awq")


def both(name: str) -> tuple[Result, Result]:
    """Return how a trace fares under `fifo` and under `fair`, all else equal."""
    trace = shipped_trace(name)
    assert trace is not None
    fifo, fair = (
        simulate(trace, profile(), Conditions(Rules(policy=policy))) for policy in ("fifo", "fair")
    )
    assert (fifo.policy, fair.policy) == ("fifo", "fair")
    return fifo, fair


def worse(name: str) -> list[str]:
    """Return in what `fair` is worse than it may be."""
    fifo, fair = both(name)
    found = []
    if fair.switches > fifo.switches:
        found.append(f"{name}: {fair.switches} switches, fifo {fifo.switches}")
    if fair.interactive.p95_s > LONGER_WAITS * fifo.interactive.p95_s:
        p95 = fair.interactive.p95_s, fifo.interactive.p95_s
        found.append(f"{name}: p95 {p95[0]:.1f} s, fifo {p95[1]:.1f} s")
    if fair.ends["served"] < fifo.ends["served"]:
        found.append(f"{name}: {fair.ends['served']} served, fifo {fifo.ends['served']}")
    return found


def test_on_ping_pong_fair_needs_a_third_of_the_switches_and_half_the_wait() -> None:
    fifo, fair = both("ping-pong")

    assert 3 * fair.switches <= fifo.switches
    assert 2 * fair.interactive.p95_s <= fifo.interactive.p95_s


@pytest.mark.parametrize("name", SHIPPED)
def test_on_no_shipped_trace_is_fair_worse(name: str) -> None:
    no_findings(worse(name))


def test_on_no_random_trace_is_fair_worse() -> None:
    no_findings(line for seed in range(SEEDS) for line in worse(f"random:{seed}"))
