"""How long a request will wait. Pure: where the models stand and what things took in, seconds out.

The way to a lease is followed as the scheduler goes it: who is in the way has its turn, finishes
what it works on and leaves; the first in line comes up and has its turn; and so on, until the
model in question is awake and has a seat. Of a stage that is under way, what is left counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from types import MappingProxyType
from typing import Final

from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.estimates import Durations, Outlook, Pace
from llm_backend.switching.events import Rules, Ticket
from llm_backend.switching.eviction import fits_beside
from llm_backend.switching.policies import Policy
from llm_backend.switching.residency import WAYS_DOWN, WAYS_UP, Rung, trip_s
from llm_backend.switching.states import AT_REST, DOWN, State

START: Final = ("memory", "launch", "load", "warm_up")
"""The steps of a start, in their order."""

Steps = Mapping[str, tuple[str, float]]
"""By model that comes up: the step that is under way, and when it began."""

NOBODY: Final[Ticket] = 1 << 62
"""The ticket of a request that only might come."""

NO_STEPS: Final[Steps] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Visit:
    """A turn of a model that is to come.

    Attributes:
        entry: The model.
        requests: How many of those who wait now have their lease in it.
    """

    entry: Entry
    requests: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Looks ahead from one moment; see the module.

    Attributes:
        entries: All models.
        intents: The models that operators want.
        policy: Who goes next, and who is kept.
        rules: The settings that decide.
        durations: Measured stage times by model.
        now: The moment.
        pace: How what was measured is taken.
        steps: How far starts have come, where that is known.
    """

    entries: Mapping[str, Entry]
    intents: Collection[str]
    policy: Policy
    rules: Rules
    durations: Mapping[str, Durations]
    now: float
    pace: Pace
    steps: Steps

    def newcomer(self, model: str, claim: Claim) -> Outlook:
        """Return what a request that comes now has to expect."""
        entry = self.entries[model]
        with _in_line(entry, claim):
            return self._outlook(entry, claim)

    def waiting(self, model: str, ticket: Ticket) -> Outlook:
        """Return what a request that waits has to expect yet."""
        entry = self.entries[model]
        return self._outlook(entry, entry.waiting[ticket])

    def back_s(self, model: str, claim: Claim) -> float:
        """Return the seconds until a request would be served that the queue has no place for.

        It comes back when a place is free, which is when a model that is waited for is awake.
        """
        entry = self.entries[model]
        with _in_line(entry, claim):
            if entry.state is State.AWAKE:
                return self._outlook(entry, claim).wait_s
            line = self._line(entry)
            others = [e for e in line if e is not entry and e.waiting]
            ahead = len(entry.waiting) - 1
            visits = self._visits(entry, line, claim, ahead)
            if visits[0].entry is entry and self._is_behind(claim, others):
                visits += [Visit(e, len(e.waiting)) for e in others]
                visits.append(Visit(entry, 1))
            seat_s = self._seat_s(entry, ahead, entry.needs.concurrency)
            return self._way_s(visits) + seat_s

    def awake_s(self, model: str) -> float:
        """Return the seconds until a model is awake that somebody wants, or is to want now."""
        entry, claim = self.entries[model], Claim(self.now)
        if entry.state is State.AWAKE:
            return 0.0
        with _in_line(entry, claim):
            return self._way_s(self._visits(entry, self._line(entry), claim, 0))

    def _outlook(self, entry: Entry, claim: Claim) -> Outlook:
        ahead = self.policy.ahead(entry, claim)
        line = self._line(entry)
        awake = [e for e in self.entries.values() if e.state is State.AWAKE]
        before = sum(len(e.waiting) for e in awake if self._excludes(e, entry))
        if entry.state is State.AWAKE:
            seat_s = self._seat_s(entry, ahead, entry.free)
            if not line or self._has_seat_in_time(entry, line, claim, seat_s):
                return Outlook(ahead + 1, seat_s, is_measured=entry.served > 0)
            line.append(entry)
        visits = self._visits(entry, line, claim, ahead)
        wait_s = self._way_s(visits)
        wait_s += self._seat_s(entry, visits[-1].requests - 1, entry.needs.concurrency)
        is_measured = all(self.durations.get(v.entry.needs.model, {}).get("start") for v in visits)
        return Outlook(before + sum(v.requests for v in visits), wait_s, is_measured)

    def _has_seat_in_time(
        self, entry: Entry, line: list[Entry], claim: Claim, seat_s: float
    ) -> bool:
        """Return whether an awake model has a seat for a request before its turn is over."""
        return not self._is_behind(claim, line) and seat_s <= self._stay_s(entry, line[0])

    def _is_behind(self, claim: Claim, others: list[Entry]) -> bool:
        """Return whether these models have their turn before a request of a model that has its."""
        firsts = (next(iter(e.waiting.values())) for e in others if e.waiting)
        return any(self.policy.breaks_off(claim, first) for first in firsts)

    # The line

    def _line(self, entry: Entry) -> list[Entry]:
        """Return those who wait for a turn, the model itself among them unless it is awake."""
        wanted = [e for e in self.policy.line() if self._is_wanted(e)]
        rivals = [e for e in wanted if e.state is not State.AWAKE]
        line = [e for e in rivals if e is entry or self._excludes(e, entry)]
        if entry.state is not State.AWAKE and entry not in line:
            line.append(entry)
        line.sort(key=lambda e: e.state is not State.STARTING)
        return line

    def _is_wanted(self, entry: Entry) -> bool:
        return entry.needs.model in self.intents or self.policy.is_urgent(entry)

    def _excludes(self, one: Entry, other: Entry) -> bool:
        return one is not other and not fits_beside(other.needs, [one.needs], self.rules.capacity)

    def _visits(self, entry: Entry, line: list[Entry], mine: Claim, ahead: int) -> list[Visit]:
        """Return who has a turn, one after the other, until the request has its lease."""
        queues = {e.needs.model: list(e.waiting.values()) for e in line}
        queues[entry.needs.model][ahead:] = [mine]
        line = list(line)
        visits = []
        while True:
            first = line.pop(0)
            queue = queues[first.needs.model]
            heads = [queues[e.needs.model][0] for e in line if queues[e.needs.model]]
            served = self._served(first, queue, min(heads, key=lambda c: c.since, default=None))
            visits.append(Visit(first, served))
            if first is entry and served == len(queue):
                return visits
            del queue[:served]
            if queue:
                line.append(first)
                line.sort(key=lambda e: [c.since for c in queues[e.needs.model][:1]])

    def _served(self, entry: Entry, queue: list[Claim], oldest: Claim | None) -> int:
        """Return how many of a queue have their lease before another model has its turn."""
        served = entry.needs.concurrency
        while served < len(queue) and not (
            oldest is not None and self.policy.breaks_off(queue[served], oldest)
        ):
            served += 1
        return min(served, len(queue))

    def _way_s(self, visits: list[Visit]) -> float:
        """Return the seconds until the last of these models is awake."""
        first = visits[0].entry
        there = [e for e in self.entries.values() if e.state not in DOWN]
        there = [e for e in there if self._excludes(e, first) or _is_leaving(e, first)]
        way_s = max((self._going_s(e, first) for e in there), default=0.0)
        way_s += self._coming_s(first)
        for one, following in pairwise(visits):
            way_s += self._turn_s(one, following.entry)
            way_s += self._leaving_s(one.entry) + self._start_s(following.entry)
        return way_s

    # One model

    def _going_s(self, entry: Entry, wanted: Entry) -> float:
        """Return the seconds until a model that is there has left the device."""
        match entry.state:
            case State.AWAKE:
                return self._stay_s(entry, wanted) + self._leaving_s(entry)
            case State.DRAINING:
                return self._drain_s(entry) + self._leaving_s(entry)
            case State.STOPPING:
                return self.pace.left_s(self._leaving_s(entry), self.now - entry.since)
            case _ if self.policy.must_finish(entry):
                return self._coming_s(entry) + self._leaving_s(entry)
        return self._leaving_s(entry)

    def _stay_s(self, entry: Entry, wanted: Entry) -> float:
        """Return for how long an awake model is kept, or works, yet."""
        kept_s = max(0.0, self.policy.kept_until(entry, wanted) - self.now)
        work_s = self._drain_s(entry)
        if kept_s == inf:  # until the device has been idle for some time: nobody knows when
            return work_s + self.rules.batch_idle * self._return_s(entry, wanted)
        if entry.waiting:
            work_s = max(work_s, min(kept_s, self._work_s(entry, len(entry.waiting))))
        if kept_s <= 0.0 or not self._is_in_demand(entry, wanted):
            return work_s
        turn_s = entry.turn_since + self.policy.turn_s(entry) - self.now
        return max(kept_s, turn_s, work_s)

    def _turn_s(self, visit: Visit, following: Entry) -> float:
        """Return for how long a model stays that comes up before another one."""
        work_s = self._work_s(visit.entry, visit.requests)
        if self._is_in_demand(visit.entry, following) or visit.entry.needs.model in self.intents:
            return max(work_s, self.policy.turn_s(visit.entry))
        return work_s

    def _is_in_demand(self, entry: Entry, wanted: Entry) -> bool:
        """Return whether its next request usually comes before it has to leave."""
        linger_s = self.rules.linger * self._return_s(entry, wanted)
        return self.pace.careful or entry.pause_s <= linger_s

    def _return_s(self, entry: Entry, wanted: Entry) -> float:
        durations = [self.durations.get(e.needs.model, {}) for e in (entry, wanted)]
        return trip_s(durations[0], self._rung(entry)) + trip_s(durations[1], self._rung(wanted))

    def _work_s(self, entry: Entry, requests: int) -> float:
        """Return the seconds to answer so many requests, and those that are under way."""
        rounds = (requests + entry.leases) / entry.needs.concurrency
        return max(1.0, rounds) * self._lease_s(entry)

    def _drain_s(self, entry: Entry) -> float:
        """Return the seconds until all leases that are out are back."""
        # Of so many that began at any time, the last one ends so late in the mean.
        drain_s = self._lease_s(entry) * entry.leases / (entry.leases + 1)
        is_draining = entry.state is State.DRAINING
        return min(drain_s, entry.drain_until - self.now if is_draining else self.rules.drain_s)

    def _seat_s(self, entry: Entry, ahead: int, free: int) -> float:
        """Return the seconds until a request has a seat on an awake model."""
        return max(0, ahead + 1 - free) * self._lease_s(entry) / entry.needs.concurrency

    def _lease_s(self, entry: Entry) -> float:
        return self.pace.lease_s(entry.lease_s(self.now))

    def _coming_s(self, entry: Entry) -> float:
        """Return the seconds until a model is awake that has room now."""
        start_s = self._start_s(entry)
        if entry.state is not State.STARTING:
            return start_s
        durations = self.durations.get(entry.needs.model, {})
        step, since = self.steps.get(entry.needs.model, ("", 0.0))
        if step not in START or not durations.keys() >= set(START):
            return self.pace.left_s(start_s, self.now - entry.since)
        left_s = self.pace.left_s(self.pace.stage_s(durations, step), self.now - since)
        return left_s + sum(self.pace.stage_s(durations, s) for s in START[START.index(step) + 1 :])

    def _start_s(self, entry: Entry) -> float:
        """Return the seconds that the next start of a model takes."""
        rung = None if entry.state in AT_REST else self._rung(entry)
        durations = self.durations.get(entry.needs.model, {})
        return self.pace.stage_s(durations, "start" if rung is None else WAYS_UP[rung])

    def _leaving_s(self, entry: Entry) -> float:
        """Return the seconds until a model that works on nothing has left the device."""
        rung = self._rung(entry)
        durations = self.durations.get(entry.needs.model, {})
        return self.pace.stage_s(durations, "stop" if rung is None else WAYS_DOWN[rung])

    def _rung(self, entry: Entry) -> Rung | None:
        """Return how deep a model sleeps, or will when it leaves; None where it is stopped."""
        return entry.next_rung(self.durations.get(entry.needs.model, {}), self.now)


@contextmanager
def _in_line(entry: Entry, claim: Claim) -> Iterator[None]:
    """Have a request in line while the block runs: policies look at who waits."""
    entry.waiting[NOBODY] = claim
    try:
        yield
    finally:
        del entry.waiting[NOBODY]


def _is_leaving(entry: Entry, wanted: Entry) -> bool:
    """Return whether the model itself has to leave before it can come up anew."""
    return entry is wanted and entry.state in {State.DRAINING, State.STOPPING}
