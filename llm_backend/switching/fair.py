"""The policy `fair`: turns that pay for their switch, within a bound on everybody's wait.

1. An operator's switch goes before every request, and its model is kept for a quantum.
2. A model that becomes awake has a turn. Within a quantum, about what a switch costs, it serves
   whoever asks for it, although others wait; where more of them wait than use it, the quantum is
   as much shorter. Idle, it lingers for the next request only if that usually comes soon: the
   more wait, the sooner. After that it is kept only for those who came before the others.
3. While anybody waits for another model, models are kept for `max_wait_s` in all.
4. Models take turns in the order in which they began to wait. One that had its turn stands at
   the end of the line, however old the requests are that it could not serve.
5. On a model, the keys take turns; no key fills the queue alone.
6. A `batch` request is served while nobody else wants the device, and starts its model when
   the device has been idle for some switches. In its model's turn it may take a free seat
   before those who came later for other models. After `batch_max_wait_s` it is like any other.

The bound that follows is derived in `docs/explanation/switching.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from math import inf

from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.estimates import Durations
from llm_backend.switching.events import Rules, Ticket
from llm_backend.switching.eviction import fits_beside
from llm_backend.switching.residency import trip_s
from llm_backend.switching.states import State

INSTANT_S = 0.001
"""Less is nothing: sums of many short times are not exact, and a timer must move the clock."""

LEAST_LINGER_S = 1.0
"""A program needs this long to ask again, however fast switches are."""

SOON = 2.0
"""A request comes soon if it usually comes within so many times the lingering."""


class Fair:
    """Decides by turns; see the module.

    Args:
        entries: All models, a live view.
        intents: The models that operators want, a live view.
        rules: The settings that decide.
        durations: Measured stage times by model, a live view.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        intents: Collection[str],
        rules: Rules,
        durations: Mapping[str, Durations],
    ) -> None:
        self.wake_at = inf
        self._entries = entries
        self._intents = intents
        self._rules = rules
        self._durations = durations
        self._now = 0.0
        # By model that waits for its turn: seconds for which others were kept meanwhile.
        self._held: dict[str, float] = {}
        self._holding = False
        # By model and key: how many requests were called up before its last one.
        self._served: dict[str, Counter[str]] = {model: Counter() for model in entries}

    def begin(self, now: float) -> None:
        """Count the time for which somebody was kept, against all who wait for a turn."""
        passed = now - self._now if self._holding else 0.0
        self._now, self._holding = now, False
        self.wake_at = self._next_promotion()
        waiting = [e.needs.model for e in self._claimants()]
        self._held = {m: self._held[m] + passed if m in self._held else 0.0 for m in waiting}

    # Who goes next

    def line(self) -> Iterator[Entry]:
        """Yield operators' models, awake ones, those who wait for a turn, then `batch` alone."""
        yield from [self._entries[model] for model in self._intents]
        others = [
            e for e in self._entries.values() if e.waiting and e.needs.model not in self._intents
        ]
        yield from [e for e in others if e.state is State.AWAKE]
        waiting = [e for e in others if e.state is not State.AWAKE]
        # Of two at the same place, the one that made room for the other goes last.
        urgent = filter(self.is_urgent, waiting)
        yield from sorted(urgent, key=lambda e: (self._place(e), e.turn_over))
        yield from [e for e in waiting if not self.is_urgent(e)]

    def is_urgent(self, entry: Entry) -> bool:
        """Return whether somebody waits who is not of the class `batch`, or has waited long."""
        return self._asked_at(entry) < inf

    def breaks_off(self, claim: Claim, oldest: Claim) -> bool:  # noqa: ARG002  # whoever they are
        """Return false: in its turn a model serves all who wait, as long as there is patience."""
        return False

    def ahead(self, entry: Entry, claim: Claim) -> int:
        """Return how many are called up before a request: each key has as many turns as its own."""
        before: Counter[str] = Counter()
        for other in entry.waiting.values():
            if other is claim:
                break
            if claim.batch or self._is_pressing(other):
                before[other.key] += 1
        own = before.pop(claim.key, 0)
        return own + sum(min(count, own + 1) for count in before.values())

    def goes_before(self, entry: Entry) -> bool:
        """Return whether it waits for its turn: who is awake has it, and is kept or not."""
        return entry.state is not State.AWAKE

    def has_place(self, claim: Claim, waiting: int) -> bool:
        """Return whether the queue is not full; its end is for keys that have little in it."""
        reserve = self._rules.queue_reserve
        if waiting <= self._rules.queue_limit - reserve:
            return True
        own = sum(c.key == claim.key for e in self._entries.values() for c in e.waiting.values())
        return waiting <= self._rules.queue_limit and own <= reserve

    def call_up(self, entry: Entry) -> Ticket | None:
        """Return the oldest request of the key that was called up the longest ago."""
        candidates = [t for t, claim in entry.waiting.items() if self._is_pressing(claim)]
        if not candidates:
            rivals_since = min(map(self._asked_at, self._rivals(entry)), default=inf)
            candidates = [t for t, claim in entry.waiting.items() if claim.since < rivals_since]
        if not candidates:
            return None
        served = self._served[entry.needs.model]
        ticket = min(candidates, key=lambda t: served[entry.waiting[t].key])
        served[entry.waiting[ticket].key] = max(served.values(), default=0) + 1
        return ticket

    def _claimants(self) -> Iterator[Entry]:
        """Yield the models that wait for a turn."""
        for entry in self._entries.values():
            if entry.state is not State.AWAKE and self.is_urgent(entry):
                yield entry

    def _rivals(self, entry: Entry) -> list[Entry]:
        """Return the models that wait for a turn and cannot have it beside this one."""
        mine, capacity = entry.needs, self._rules.capacity
        return [e for e in self._claimants() if not fits_beside(mine, [e.needs], capacity)]

    def _place(self, entry: Entry) -> float:
        """Return since when a model waits for its turn; one that had its turn begins anew."""
        return max(self._asked_at(entry), entry.turn_over)

    def _asked_at(self, entry: Entry) -> float:
        """Return when the first came who is not to wait long; `inf` where nobody did."""
        if not entry.waiting:
            return inf
        firsts = (_first(entry, batch=False), _first(entry, batch=True))
        return min((self._due(c) for c in firsts if c and self._is_pressing(c)), default=inf)

    def _is_pressing(self, claim: Claim) -> bool:
        return not claim.batch or self._due(claim) <= self._now

    def _due(self, claim: Claim) -> float:
        """Return when a request begins to press: at once, unless it is of the class `batch`."""
        return claim.since + (self._rules.batch_max_wait_s if claim.batch else 0.0)

    def _next_promotion(self) -> float:
        firsts = (_first(entry, batch=True) for entry in self._entries.values())
        return min((self._due(c) for c in firsts if c and self._due(c) > self._now), default=inf)

    # Who may stay

    def must_finish(self, entry: Entry) -> bool:
        """Return whether somebody waits for the load; others are not kept waiting by one else."""
        return entry.state is State.STARTING and self.is_urgent(entry)

    def kept_until(self, entry: Entry, wanted: Entry) -> float:
        """Return until when a model may not be asked to leave for another one."""
        if wanted.needs.model in self._intents or entry.state is State.ASLEEP:
            return -inf
        if not self.is_urgent(wanted):
            return max(self._idle_until(entry, wanted), entry.kept_until)
        if entry.state is not State.AWAKE:
            return -inf
        return max(self._turn_until(entry, wanted), entry.kept_until)

    def _turn_until(self, entry: Entry, wanted: Entry) -> float:
        limit = self._now + self._patience()
        if self._asked_at(entry) < self._place(wanted):
            return limit
        crowd = self._crowd(entry)
        users = max(1, entry.leases + len(entry.waiting))
        quantum_s = self._quantum_s(entry, wanted, min(1.0, users / crowd))
        until = min(limit, entry.turn_since + quantum_s)
        if entry.leases:
            return until
        return min(until, entry.idle_since + self._linger_s(entry, wanted, crowd))

    def _crowd(self, entry: Entry) -> int:
        """Return how many wait for a model to leave; one at least."""
        rivals = self._rivals(entry)
        return max(1, sum(self._is_pressing(c) for e in rivals for c in e.waiting.values()))

    def _linger_s(self, entry: Entry, wanted: Entry, crowd: int) -> float:
        return_s = self._return_s(entry, wanted)
        longest = max(self._rules.linger * return_s, min(LEAST_LINGER_S, return_s / 4))
        if entry.pause_s * crowd > SOON * longest:
            return 0.0
        # Whoever waits behind several models waits for the lingering of each.
        return longest / max(1, len(self._held))

    def _idle_until(self, entry: Entry, wanted: Entry) -> float:
        """Return when a model will have been idle for so long that `batch` may take its place."""
        if entry.state is not State.AWAKE or entry.leases or entry.waiting:
            return inf
        return entry.idle_since + self._rules.batch_idle * self._return_s(entry, wanted)

    def _patience(self) -> float:
        """Return for how long models may still be kept while others wait for their turn."""
        left = self._rules.max_wait_s - max(self._held.values(), default=0.0)
        return left if left > INSTANT_S else 0.0

    def _quantum_s(self, entry: Entry, wanted: Entry, weight: float = 1.0) -> float:
        # Turns of all who wait are to fit into the time for which each of them may be held up.
        share = self._rules.max_wait_s / max(1, len(self._held))
        return min(share, self._rules.quantum * weight * self._return_s(entry, wanted))

    def _return_s(self, entry: Entry, wanted: Entry) -> float:
        return self._trip_s(entry) + self._trip_s(wanted)

    def _trip_s(self, entry: Entry) -> float:
        durations = self._durations.get(entry.needs.model, {})
        return trip_s(durations, entry.next_rung(durations, self._now))

    def wait_until(self, until: float, wanted: Entry) -> None:
        """Take note that somebody is kept for so long while this model is wanted."""
        self.wake_at = min(self.wake_at, until)
        self._holding = self._holding or self.is_urgent(wanted)

    def turn_s(self, entry: Entry) -> float:
        """Return for how long a model is kept once it is awake, if it is asked all the time."""
        return self._quantum_s(entry, entry)


def _first(entry: Entry, *, batch: bool) -> Claim | None:
    """Return the oldest request of a class."""
    return next((claim for claim in entry.waiting.values() if claim.batch is batch), None)
