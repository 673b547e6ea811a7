"""When the breaker lets through."""

from __future__ import annotations

import pytest

from llm_backend.gateway.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, retry_s=5, clock=clock)


def fail(breaker: Breaker, times: int = 3) -> None:
    for _ in range(times):
        breaker.failed()


def test_it_opens_at_the_third_failure_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.lets_through()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.lets_through()


def test_one_may_try_again_after_a_while(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 4.9
    assert not breaker.lets_through()
    clock.now += 0.1
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]


def test_a_try_that_fails_keeps_it_open_for_another_while(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 5
    assert breaker.lets_through()
    breaker.failed()
    clock.now += 4.9
    assert not breaker.lets_through()
    clock.now += 0.1
    assert breaker.lets_through()


def test_a_try_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 5
    assert breaker.lets_through()
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.lets_through() for _ in range(3))


def test_a_try_of_which_nothing_is_heard_does_not_block_the_next(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 5
    assert breaker.lets_through()
    clock.now += 5
    assert breaker.lets_through()
