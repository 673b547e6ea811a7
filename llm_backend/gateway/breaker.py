"""Stops asking a service that does not answer, and tries it again after a while."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Closed while things go well; open after some failures in a row.

    While it is open nobody is let through, but for one who tries every `retry_s` seconds: that
    one's success closes it.

    Args:
        failures: In a row, until it opens.
        retry_s: Seconds between tries while it is open.
        clock: Monotonic seconds.
    """

    def __init__(self, failures: int, retry_s: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._retry_s = retry_s
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it keeps callers away."""
        return self._failures >= self._limit

    def lets_through(self) -> bool:
        """Return whether this caller may try; while open, that uses the turn up."""
        if not self.is_open:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        self._next_try = now + self._retry_s
        return True

    def succeeded(self) -> None:
        """Note a success."""
        self._failures = 0

    def failed(self) -> None:
        """Note a failure."""
        self._failures += 1
        if self._failures == self._limit:
            self._next_try = self._clock() + self._retry_s
