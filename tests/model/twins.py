"""What a scheduler would be after a call that is not made on it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from llm_backend.switching.scheduler import Scheduler

State = list[tuple[object, ...]]


def state_of(scheduler: Scheduler) -> State:
    """Return what decides; errors, which have no equals, left out."""
    return [
        (
            *(e.state, e.leases, list(e.waiting), e.last_used, e.pause_s),
            *(e.failures, e.retry_at, e.drain_until, e.turn_since, e.kept_until),
        )
        for e in scheduler.entries.values()
    ]


def state_after(scheduler: Scheduler, call: Callable[[Scheduler], bool]) -> State | None:
    """Make a call on a copy; return its state, or None where the call was declined."""
    twin = deepcopy(scheduler)
    return state_of(twin) if call(twin) else None
