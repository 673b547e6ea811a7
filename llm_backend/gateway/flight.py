"""Identical requests in flight share one call to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from llm_backend.errors import LLMBackendError
from llm_backend.gateway.stored import StoredAnswer


class Flight:
    """One call that several requests wait for.

    Attributes:
        answer: What came of it, when it went well.
        error: What came of it, when it did not.
        joined: Requests that waited for it.
    """

    def __init__(self) -> None:
        self.answer: StoredAnswer | None = None
        self.error: LLMBackendError | None = None
        self.joined = 0
        self._over = asyncio.Event()

    async def over(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has ended.

        With neither answer nor error its leader has left: whoever asks again first leads anew.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._over.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """Let those who wait look."""
        self._over.set()


class Flights:
    """The calls under way, by cache key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, key: bytes) -> Flight | None:
        """Return the call under way for a key, to be waited for."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.joined += 1
        return flight

    @contextmanager
    def leading(self, key: bytes) -> Iterator[Flight]:
        """Be the one who calls; whatever comes of it, those who wait learn of the end."""
        flight = self._flights[key] = Flight()
        try:
            yield flight
        except LLMBackendError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.end()
