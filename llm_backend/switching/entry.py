"""Where one model stands: the record that the scheduler keeps of it."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace

from llm_backend.errors import DeviceBusy, LLMBackendError
from llm_backend.switching.estimates import Durations, expected_s
from llm_backend.switching.events import HeldUp, Needs, Ticket
from llm_backend.switching.residency import LOST_S, WAYS_UP, Rung, choose
from llm_backend.switching.states import SERVING, State

LONGEST_BACKOFF_S = 60.0

BUSY_BACKOFF_S = 2.0
"""A device that was busy is looked at again this soon: nothing of ours failed."""

LONGEST_PAUSE_S = 30.0
"""Longer pauses are taken for this: after a night, a program in a loop is soon known again."""

FAILED_TO_COME = frozenset({State.FAILED, State.ASLEEP})
"""Where a model is that could not be started or woken."""

LATEST = 0.5
"""How much the latest pause counts, against all before it."""

FORGOTTEN = 64
"""After so many leases, those before them count half: what is asked changes."""


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
        served: Leases that came back lately.
        busy_s: How long leases were out lately, all of them together.
        kept_until: Until then an operator's switch keeps it awake.
        failures: Failures in a row, without a request served in between.
        retry_at: Before this time a failed model is not started for a request.
        error: Why it failed.
        hung: Why it is being stopped, if because it hung.
        rung: How deep it sleeps, is to sleep, or slept before it was woken.
        yields_to: The model that it leaves the device for; None where it is for no model.
        was_lent: Whether it comes up, or came, because a device lease that kept it out is over.
        rungs_lost: Until when a level of sleep that failed is not tried again.
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
    served: float = 0.0
    busy_s: float = 0.0
    kept_until: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    error: LLMBackendError | None = None
    hung: LLMBackendError | None = None
    rung: Rung | None = None
    yields_to: str | None = None
    was_lent: bool = False
    rungs_lost: dict[Rung, float] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Leases that can be granted now."""
        return self.needs.concurrency - self.leases if self.state is State.AWAKE else 0

    @property
    def residency(self) -> str:
        """Where its weights are: `awake`, `asleep-1`, `asleep-2` or `stopped`."""
        if self.state is State.ASLEEP:
            return f"asleep-{self.rung}"
        return "awake" if self.state in SERVING else "stopped"

    @property
    def reserved(self) -> Needs:
        """What it takes now, if it has an engine; asleep it excludes nobody."""
        if self.state is not State.ASLEEP or self.rung is None:
            return self.needs
        return self.asleep(self.rung)

    def asleep(self, rung: Rung) -> Needs:
        """Return what it takes at this level of sleep."""
        needs = self.needs
        return replace(needs, group=f"{needs.model}, asleep", mib=needs.rungs[rung])

    def rungs_left(self, now: float) -> Iterable[Rung]:
        """Return the levels of sleep that have not failed lately."""
        return [r for r in self.needs.rungs if self.rungs_lost.get(r, now) <= now]

    def next_rung(self, durations: Durations, now: float) -> Rung | None:
        """Return how deep it sleeps, or will when it leaves; None where it is stopped."""
        if self.state in {State.STARTING, State.STOPPING, State.ASLEEP}:
            return self.rung
        rungs = self.rungs_left(now)
        return choose(rungs, durations, measured=self.needs.rung_by_time)

    def way_up_s(self, durations: Durations) -> float:
        """Return the seconds that it takes to come up; 0 if it is up, or nobody knows."""
        if self.state in SERVING:
            return 0.0
        rung = self.rung if self.state is State.ASLEEP else None
        return expected_s(durations, "start" if rung is None else WAYS_UP[rung]) or 0.0

    def lose_rung(self, now: float) -> None:
        """Take note that its level of sleep failed."""
        if self.rung is not None:
            self.rungs_lost[self.rung] = now + LOST_S

    @property
    def idle_since(self) -> float:
        """When it was last of use to anybody, or became awake."""
        return max(self.last_used, self.turn_since)

    def lease_s(self, now: float) -> float:
        """Return about how many seconds a lease is out; 0 where none ever was."""
        busy_s = self.busy_s + self.leases * (now - self.last_used)
        return busy_s / max(self.served, 1.0)

    def enter(self, state: State, now: float) -> None:
        """Come into another state."""
        previous, self.state, self.since = self.state, state, now
        if state is State.AWAKE:
            self.error = self.yields_to = None
            if previous is not State.DRAINING:
                self.turn_since = now
        elif previous is State.AWAKE:
            self.turn_over = now
        if state is State.FAILED or previous is State.AWAKE:
            self.was_lent = False

    def held_up(self, since: float) -> HeldUp:
        """Return what a request waited for that waited since then, and has its lease now."""
        if self.turn_since < since:
            return "engine_busy"
        return "lease" if self.was_lent else "switch"

    def expect(self, now: float) -> None:
        """Learn from a request that comes how long the pauses between requests are."""
        if not (self.leases or self.waiting):
            pause_s = min(now - self.last_used, LONGEST_PAUSE_S)
            self.pause_s += (pause_s - self.pause_s) * LATEST

    def lend(self, now: float) -> None:
        """Count one more lease."""
        self.busy_s += self.leases * (now - self.last_used)
        self.leases += 1
        self.last_used = now

    def take_back(self, now: float) -> None:
        """Count one lease less; a request that an engine has served forgives its failures."""
        self.busy_s += self.leases * (now - self.last_used)
        self.leases -= 1
        self.last_used = now
        self.served += 1
        if self.served >= FORGOTTEN:
            self.served, self.busy_s = self.served / 2, self.busy_s / 2
        if self.state in SERVING:
            self.failures = 0

    def remember_failure(self, error: LLMBackendError, now: float) -> None:
        """Keep why it failed, and when a request may try it again.

        The first retry is free, since most failures are not repeated; then 2, 4, 8 up to 60 s.
        """
        self.error = error
        self.failures += 1
        backoff = 0 if self.failures == 1 else 2 ** (self.failures - 1)
        longest = BUSY_BACKOFF_S if isinstance(error, DeviceBusy) else LONGEST_BACKOFF_S
        self.retry_at = now + min(backoff, longest)

    def resting(self, now: float) -> LLMBackendError | None:
        """Return what is told while a model rests that failed to come up; None once it may."""
        if self.state not in FAILED_TO_COME or self.error is None or now >= self.retry_at:
            return None
        error = copy(self.error)  # those who were told before keep their own
        error.retry_after_s = self.retry_at - now
        return error
