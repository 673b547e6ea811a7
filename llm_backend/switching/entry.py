"""Where one model stands: the record that the scheduler keeps of it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

from llm_backend.errors import LLMBackendError
from llm_backend.switching.events import Needs, Ticket
from llm_backend.switching.states import SERVING, State

LONGEST_BACKOFF_S = 60.0

LONGEST_PAUSE_S = 30.0
"""Longer pauses are taken for this: after a night, a program in a loop is soon known again."""

LATEST = 0.5
"""How much the latest pause counts, against all before it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request in line.

    Attributes:
        since: When it came.
        key: The name of its API key.
        batch: Whether it is of the class `batch`.
        may_switch: Whether its model may be made awake for it.
    """

    since: float
    key: str = ""
    batch: bool = False
    may_switch: bool = True


@dataclass(slots=True)
class Entry:
    """Where one model stands.

    Attributes:
        needs: What it takes; fixed.
        state: State of its engine.
        since: When it came into this state.
        leases: Requests that use the engine now.
        waiting: Requests in line for it, by ticket, oldest first.
        drain_until: When its drain ends, come what may.
        last_used: When its last lease was granted or came back.
        turn_since: When its engine last became ready: its turn on the device began.
        turn_over: When that turn ended.
        pause_s: How long nobody used it, the last times, before the next request came.
        kept_until: Until then an operator's switch keeps it awake.
        failures: Failures in a row, without a request served in between.
        retry_at: Before this time a failed model is not started for a request.
        error: Why it failed.
        hung: Why it is being stopped, if because it hung.
    """

    needs: Needs
    state: State = State.STOPPED
    since: float = 0.0
    leases: int = 0
    waiting: dict[Ticket, Claim] = field(default_factory=dict)
    drain_until: float = 0.0
    last_used: float = 0.0
    turn_since: float = 0.0
    turn_over: float = 0.0
    pause_s: float = 0.0
    kept_until: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    error: LLMBackendError | None = None
    hung: LLMBackendError | None = None

    @property
    def free(self) -> int:
        """Leases that can be granted now."""
        return self.needs.concurrency - self.leases if self.state is State.AWAKE else 0

    @property
    def idle_since(self) -> float:
        """When it was last of use to anybody, or became awake."""
        return max(self.last_used, self.turn_since)

    def enter(self, state: State, now: float) -> None:
        """Come into another state."""
        previous, self.state, self.since = self.state, state, now
        if state is State.AWAKE:
            self.error = None
            if previous is not State.DRAINING:
                self.turn_since = now
        elif previous is State.AWAKE:
            self.turn_over = now

    def expect(self, now: float) -> None:
        """Learn from a request that comes how long the pauses between requests are."""
        if not (self.leases or self.waiting):
            pause_s = min(now - self.last_used, LONGEST_PAUSE_S)
            self.pause_s += (pause_s - self.pause_s) * LATEST

    def lend(self, now: float) -> None:
        """Count one more lease."""
        self.leases += 1
        self.last_used = now

    def take_back(self, now: float) -> None:
        """Count one lease less; a request that an engine has served forgives its failures."""
        self.leases -= 1
        self.last_used = now
        if self.state in SERVING:
            self.failures = 0

    def remember_failure(self, error: LLMBackendError, now: float) -> None:
        """Keep why it failed, and when a request may try it again.

        The first retry is free, since most failures are not repeated; then 2, 4, 8 up to 60 s.
        """
        self.error = error
        self.failures += 1
        backoff = 0 if self.failures == 1 else 2 ** (self.failures - 1)
        self.retry_at = now + min(backoff, LONGEST_BACKOFF_S)

    def resting(self, now: float) -> LLMBackendError | None:
        """Return what a request is told while a failed model rests; None once it may be tried."""
        if self.state is not State.FAILED or self.error is None or now >= self.retry_at:
            return None
        error = copy(self.error)  # those who were told before keep their own
        error.retry_after_s = self.retry_at - now
        return error
