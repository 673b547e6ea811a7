"""Equal requests that share one call."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from llm_backend.errors import EngineGone
from llm_backend.gateway.flight import Flight, Flights
from llm_backend.gateway.stored import StoredAnswer

pytestmark = pytest.mark.anyio

KEY, OTHER = b"key", b"other"
PATIENCE_S = 10
ANSWER = StoredAnswer("a", b"application/json", b"{}")


def found(flights: Flights) -> Flight:
    flight = flights.find(KEY)
    assert flight is not None
    return flight


async def test_those_who_wait_get_the_answer() -> None:
    flights = Flights()
    with flights.leading(KEY) as flight:
        assert flights.find(OTHER) is None
        waiting = [asyncio.create_task(found(flights).over(PATIENCE_S)) for _ in range(3)]
        await asyncio.sleep(0)
        flight.answer = ANSWER
        followed = found(flights)

    assert await asyncio.gather(*waiting) == [True, True, True]
    assert followed.answer is ANSWER
    assert not followed.left
    assert flights.find(KEY) is None
    assert len(flights) == 0


async def test_an_error_is_for_all() -> None:
    flights = Flights()
    error = EngineGone("It is gone.")
    with contextlib.suppress(EngineGone), flights.leading(KEY):
        followed = found(flights)
        raise error

    assert await followed.over(0)
    assert followed.error is error
    assert not followed.left


@pytest.mark.parametrize("end", [asyncio.CancelledError, RuntimeError])
async def test_a_leader_that_leaves_is_no_answer(end: type[BaseException]) -> None:
    flights = Flights()
    with contextlib.suppress(end), flights.leading(KEY):
        followed = found(flights)
        raise end

    assert await followed.over(0)
    assert followed.left
    assert (followed.answer, followed.error) == (None, None)
    assert flights.find(KEY) is None, "the next one leads"


async def test_waiting_has_a_limit() -> None:
    flights = Flights()
    with flights.leading(KEY):
        assert not await found(flights).over(0.01)
