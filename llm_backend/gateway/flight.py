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
        left: Whether nothing came of it, because its leader left.
    """

    def __init__(self) -> None:
        self.answer: StoredAnswer | None = None
        self.error: LLMBackendError | None = None
        self.left = False
        self._over = asyncio.Event()

    async def over(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has ended."""
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
        return self._flights.get(key)

    @contextmanager
    def leading(self, key: bytes) -> Iterator[Flight]:
        """Be the one who calls; whatever comes of it, those who wait learn of the end."""
        flight = self._flights[key] = Flight()
        try:
            yield flight
        except LLMBackendError as error:
            flight.error = error
            raise
        except BaseException:
            flight.left = True
            raise
        finally:
            del self._flights[key]
            flight.end()
