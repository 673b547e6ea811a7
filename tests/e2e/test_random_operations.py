"""Two hundred random operations: what they did to the engines is read from Docker's events.

OPERATIONS_SEED=N in the environment puts them in another order, on other models.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.e2e.events import RUNS, Event, EventLog
from tests.e2e.operations import MODELS, ByHand, Operations
from tests.e2e.stack import ENGINES, OVERRIDE, Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SEED: Final = int(os.environ.get("OPERATIONS_SEED", "4"))
PLAN: Final = {
    Operations.ask: 50,
    Operations.ask_again: 26,
    Operations.switch: 20,
    Operations.race: 10,
    Operations.race_of_operators: 12,
    Operations.kill_awake: 14,
    Operations.kill_loading: 7,
    Operations.exhaust_memory: 8,
    Operations.exhaust_memory_loading: 5,
    Operations.ignore_sigterm: 5,
    Operations.pause: 10,
    Operations.pause_and_leave: 3,
    Operations.pause_for_good: 1,
    Operations.start_another: 12,
    Operations.start_another_in_a_switch: 6,
    Operations.restart_awake: 5,
    Operations.kill_gateway: 4,
    Operations.restart_docker: 2,
}
"""How often what is done; the order is the seed's."""
PARTS: Final = 8
ENDED_WITHIN_S: Final = 2.0
"""How long an engine that somebody else started may run."""
LIMITS: Final = OVERRIDE.with_name("compose.limits.yaml")
TEXT_ROUTES: Final = "/v1/"


@dataclass(slots=True)
class Run:
    """From a start of an engine's container to its end."""

    name: str
    start: float
    end: float = float("inf")


def runs_of(events: list[Event]) -> list[Run]:
    """Return all runs, in the order of their starts."""
    found: list[Run] = []
    running: dict[str, Run] = {}
    for event in events:
        begins = RUNS.get(event.action)
        if begins and event.name not in running:
            running[event.name] = Run(event.name, event.at)
            found.append(running[event.name])
        elif begins is False and event.name in running:
            running.pop(event.name).end = event.at
    return found


def hand_of(run: Run, by_hand: list[ByHand]) -> ByHand | None:
    """Return what started an engine, if it was not the gateway."""
    return next((h for h in by_hand if h.name == run.name and h.began <= run.start <= h.done), None)


def overlaps(runs: list[Run], by_hand: list[ByHand]) -> Iterator[str]:
    """Say where the gateway had two engines run at once."""
    own = [run for run in runs if hand_of(run, by_hand) is None]
    for index, run in enumerate(own):
        yield from (
            f"{late.name} ran from {late.start:.3f} beside {run.name}, which ended {run.end:.3f}"
            for late in own[index + 1 :]
            if late.start < run.end
        )


def intruders(runs: list[Run], by_hand: list[ByHand], stack: Stack) -> Iterator[str]:
    """Say where an engine that somebody else started ran on, or got a request."""
    models = {container: model for model, container in ENGINES.items()}
    for run in runs:
        hand = hand_of(run, by_hand)
        if hand is None:
            continue
        lasted = run.end - max(run.start, hand.seen)
        if lasted > ENDED_WITHIN_S:
            yield f"{run.name}, started by hand at {run.start:.3f}, ran for {lasted:.1f} s"
        for note in stack.journal(models[run.name]):
            if (
                note["event"] == "request"
                and note["path"].startswith(TEXT_ROUTES)
                and run.start <= note["at"] <= run.end
            ):
                yield f"{run.name}, started by hand at {run.start:.3f}, got {note}"


def shuffled() -> list[Callable[[Operations], None]]:
    """Return all operations, in the order of the seed."""
    plan = [operation for operation, count in PLAN.items() for _ in range(count)]
    assert len(plan) == 200
    random.Random(SEED).shuffle(plan)  # noqa: S311 - it keeps no secret
    return plan


def test_the_verdict_tells_two_at_once_from_a_start_by_hand() -> None:
    times = [("a", "start", 1), ("b", "start", 2), ("a", "die", 2.5), ("b", "die", 5)]
    runs = runs_of([Event(name, action, at) for name, action, at in times])
    assert len([*overlaps(runs, [])]) == 1
    assert [*overlaps(runs, [ByHand("b", 1.9, 2.1, 0)])] == []
    assert len([*overlaps(runs, [ByHand("b", 2.1, 2.2, 0)])]) == 1


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Stack]:
    """The set-up, with engines that can be out of memory and deadlines that a test can await."""
    stack.environment |= {
        "COMPOSE_FILE": f"{stack.environment['COMPOSE_FILE']}:{LIMITS}",
        "LLM_SWITCHING__STALL_S": "2",
        "LLM_SWITCHING__PROBE_S": "2",
    }
    catalog = stack.root / "config" / "models.yaml"
    catalog.write_text(catalog.read_text().replace("start_s: 900", "start_s: 60\n      stop_s: 1"))
    options = ("--setup", "compose", "--model", MODELS[0], "--yes", "--detach")
    stack.script("start_all", *options)
    yield stack
    stack.script("stop_all")


@pytest.mark.parametrize("part", range(PARTS))
def test_random_operations(running: Stack, event_log: EventLog, part: int) -> None:
    rng = random.Random(f"{SEED}/{part}")  # noqa: S311 - it keeps no secret
    operations = Operations(running, event_log, rng)
    try:
        for operation in shuffled()[part::PARTS]:
            operation(operations)
        for model in MODELS:
            operations.ask_for(model)
        runs = runs_of(event_log.events)
        assert [run.name for run in runs if run.end == float("inf")] == [ENGINES[MODELS[-1]]]
        assert [*overlaps(runs, operations.by_hand)] == []
        assert [*intruders(runs, operations.by_hand, running)] == []
        assert all(any(hand_of(run, [hand]) for run in runs) for hand in operations.by_hand)
    except BaseException as error:
        error.add_note(f"OPERATIONS_SEED={SEED}\n" + "\n".join(operations.told))
        raise
