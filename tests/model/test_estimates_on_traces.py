"""Estimates against what came: on the traces that come with the product, and on random ones.

Every request that had to wait was told how long; here that is compared with how long it did wait.

Of a request that found the queue full, `Retry-After` is compared with the seconds until it would
have been served, had it come back as soon as it could: until the queue has a place for it again,
and from then on until its model is awake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from statistics import median
from typing import Any

import pytest

from llm_backend.errors import MAX_RETRY_AFTER_S
from llm_backend.replay import simulate
from llm_backend.replay.profile import Profile, load_profile
from llm_backend.replay.shipped import SHIPPED, shipped_trace
from llm_backend.replay.simulate import Conditions
from llm_backend.replay.trace import Arrival
from llm_backend.switching import events as ev
from llm_backend.switching.entry import Claim
from llm_backend.switching.states import State
from llm_backend.wire import retry_after
from tests.house.project import no_findings

POLICIES = ("fifo", "fair")
RANDOM = [f"random:{seed}" for seed in range(40)]
LEARNED = 3
"""After so many switches of a model, what is told of it is to be right."""

OFF = 0.25
"""By how much, in the median, an estimate may be off."""

QUEUES = (2, 4, 8, 16)


@cache
def profile() -> Profile:
    return load_profile("rtx5080-awq")


class Play(simulate._Simulation):
    """A simulation that notes who was told what, and how it came."""

    def __init__(self, name: str, **rules: Any) -> None:
        trace = shipped_trace(name)
        assert trace is not None
        super().__init__(trace, profile(), Conditions(ev.Rules(**rules)))
        self.errors: list[float] = []
        self.refused: list[Refused] = []
        self._awoke: set[str] = set()
        self._learned: dict[int, bool] = {}

    def _tell(self, event: ev.Event) -> None:
        self._awoke = set()
        super()._tell(event)
        for refused in self.refused:
            self._look_after(refused)

    def _arrive(self, arrival: Arrival) -> None:
        loads = Counter(self._loads)[arrival.model]
        self._learned[len(self._outcomes)] = loads >= LEARNED
        super()._arrive(arrival)

    def _moved(self, model: str, previous: State, state: State) -> None:
        super()._moved(model, previous, state)
        if state is State.AWAKE:
            self._awoke.add(model)

    def _perform(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.Refuse) and self._learned[effect.ticket - 1]:
            told = retry_after(effect.error)
            assert told is not None
            arrival = self._waiting[effect.ticket].arrival
            self.refused.append(Refused(arrival, self._clock.now, int(told)))
        super()._perform(effect)

    def _look_after(self, refused: Refused) -> None:
        arrival, now = refused.arrival, self._clock.now
        if refused.served_at is not None or now == refused.at:
            return
        if refused.has_place:
            is_served = arrival.model in self._awoke
        else:
            claim, length = Claim(now, arrival.key, arrival.batch), self._scheduler.queue_length
            refused.has_place = self._scheduler._policy.has_place(claim, length + 1)
            state = self._scheduler.entries[arrival.model].state
            is_served = refused.has_place and state is State.AWAKE
        if is_served:
            refused.served_at = now

    def misses(self) -> list[float]:
        """Return by which share each estimate was off, of waits of a second and more."""
        return [
            abs(o.expected_s - o.waited_s) / o.waited_s
            for number, o in enumerate(self._outcomes)
            if self._learned[number]
            and o.end in {"served", "cut"}
            and o.expected_s is not None
            and o.waited_s is not None
            and o.waited_s >= 1
        ]


@dataclass(slots=True)
class Refused:
    """One who found the queue full.

    Attributes:
        arrival: Who.
        at: When.
        told_s: What `Retry-After` said.
        has_place: Whether there has been a place since.
        served_at: When it would have been served; None if never in this trace.
    """

    arrival: Arrival
    at: float
    told_s: int
    has_place: bool = False
    served_at: float | None = None


def played(names: list[str], **rules: Any) -> Iterator[Play]:
    for name in names:
        play = Play(name, **rules)
        play.run()
        yield play


@pytest.mark.parametrize("policy", POLICIES)
def test_after_three_switches_the_median_estimate_is_off_by_a_quarter_at_most(policy: str) -> None:
    plays = played([*SHIPPED, *RANDOM], policy=policy)
    misses = [miss for play in plays for miss in play.misses()]

    print(f"{policy}: {median(misses):.1%} of {len(misses)}")
    assert len(misses) > 1_000
    assert median(misses) <= OFF


def test_under_fair_that_is_so_on_each_trace() -> None:
    for name in [*SHIPPED, *RANDOM]:
        [play] = played([name], policy="fair")
        misses = play.misses()
        assert len(misses) < 5 or median(misses) <= OFF, (name, median(misses), len(misses))


@pytest.mark.parametrize("policy", POLICIES)
def test_who_comes_back_when_told_finds_a_place_and_the_model_awake(policy: str) -> None:
    refused = [
        r
        for limit in QUEUES
        for play in played([*SHIPPED, *RANDOM[:20]], policy=policy, queue_limit=limit)
        for r in play.refused
        if r.served_at is not None
    ]
    actual = [r.served_at - r.at for r in refused if r.served_at is not None]
    good = [r.told_s >= min(s, MAX_RETRY_AFTER_S) for r, s in zip(refused, actual, strict=True)]
    ratios = [
        r.told_s / max(1.0, min(s, MAX_RETRY_AFTER_S)) for r, s in zip(refused, actual, strict=True)
    ]

    print(f"{policy}: {sum(good) / len(good):.1%} of {len(good)}, {median(ratios):.2f} times")
    assert len(good) > 500
    assert sum(good) >= 0.95 * len(good)
    assert max(r.told_s for r in refused) <= MAX_RETRY_AFTER_S
    assert median(ratios) < 2, "told to stay away for ever, nobody comes too early"


class Nosy(Play):
    """Looks ahead for everybody after every event."""

    def __init__(self, name: str, **rules: Any) -> None:
        super().__init__(name, **rules)
        self.found: list[str] = []

    def _tell(self, event: ev.Event) -> None:
        super()._tell(event)
        now = self._clock.now
        forecast = self._scheduler.forecast(now)
        for model, entry in self._scheduler.entries.items():
            told = [forecast.newcomer(model, Claim(now, batch=batch)) for batch in (False, True)]
            told += [forecast.waiting(model, ticket) for ticket in entry.waiting]
            times = [*(o.wait_s for o in told), forecast.awake_s(model)]
            times.append(forecast.back_s(model, Claim(now)))
            if not all(isfinite(s) and s >= 0 for s in times) or any(o.place < 1 for o in told):
                self.found.append(f"{event} at {now}: {model} {told} {times}")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["agent", "random:3", "random:17"])
def test_there_is_an_estimate_whatever_happens(name: str, policy: str) -> None:
    play = Nosy(name, policy=policy, batch_max_wait_s=120.0)
    play.run()

    no_findings(play.found)
