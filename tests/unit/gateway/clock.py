"""An event loop's clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class Timer:
    """What `call_at` returns."""

    def __init__(self, when: float, callback: Callable[[], object], timers: list[Timer]) -> None:
        self.when = when
        self.callback = callback
        self.timers = timers

    def cancel(self) -> None:
        self.timers.remove(self)


class Clock:
    """An event loop's time, which passes when told to, and its timers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.armed = 0
        self.timers: list[Timer] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.armed += 1
        self.timers.append(Timer(when, callback, self.timers))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end]:
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = timer.when
            timer.callback()
        self.now = end
