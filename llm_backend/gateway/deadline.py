"""A deadline that moves with every byte, and costs a timer only where it comes near."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """A deadline that moves with every byte.

    Moving it away costs no timer: the one that is armed fires too early, sees that, and is armed
    again for the rest.
    """

    __slots__ = ("_armed", "_at", "_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at = math.inf
        self._armed = math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def passed(self) -> bool:
        """Whether it is over, even where a busy event loop has not come to say so."""
        return self._loop.time() >= self._at

    def set(self, seconds: float) -> None:
        """Move it to `seconds` from now."""
        self._at = at = self._loop.time() + seconds
        if at < self._armed:
            self._arm(at)

    def clear(self) -> None:
        """Have none for now."""
        self._at = math.inf

    def cancel(self) -> None:
        """Have none any more, and no timer."""
        self._at = math.inf
        self._disarm()

    def _arm(self, at: float) -> None:
        self._disarm()
        self._armed = at
        self._timer = self._loop.call_at(at, self._fire)

    def _disarm(self) -> None:
        self._armed = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._armed = math.inf
        if self.passed:
            self.clear()
            self._expired()
        elif self._at < math.inf:
            self._arm(self._at)
