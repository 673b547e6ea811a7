"""A deadline that moves, on a clock that the tests move."""

from __future__ import annotations

import pytest

from llm_backend.gateway.deadline import Deadline
from tests.unit.gateway.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_deadline_that_moves_away_needs_one_timer(clock: Clock) -> None:
    expired: list[float] = []
    deadline = Deadline(clock.loop, lambda: expired.append(clock.now))

    for _ in range(50):
        deadline.set(5)
        clock.advance(0.1)
    assert clock.armed == 1

    clock.advance(100)
    assert expired == [pytest.approx(9.9)]
    assert clock.timers == []


def test_a_deadline_that_comes_nearer_is_met(clock: Clock) -> None:
    expired: list[float] = []
    deadline = Deadline(clock.loop, lambda: expired.append(clock.now))

    deadline.set(300)
    deadline.set(2)
    clock.advance(1)
    assert not deadline.passed

    clock.advance(1000)
    assert expired == [2]
    assert clock.timers == []


def test_a_cleared_deadline_never_comes(clock: Clock) -> None:
    expired: list[float] = []
    deadline = Deadline(clock.loop, lambda: expired.append(clock.now))
    deadline.set(1)
    deadline.clear()

    clock.advance(10)

    assert expired == []
    assert clock.timers == []


def test_a_cancelled_deadline_leaves_no_timer(clock: Clock) -> None:
    deadline = Deadline(clock.loop, lambda: None)
    deadline.set(1)

    deadline.cancel()

    assert clock.timers == []
    assert not deadline.passed
