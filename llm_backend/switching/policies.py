"""Who goes next, and who may stay: what a policy decides for the scheduler, and the plainest one.

`fifo`: first come, first served, with joining. `fair` is a module of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from math import inf
from typing import Protocol

from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.events import Rules, Ticket
from llm_backend.switching.states import State


class Policy(Protocol):
    """What the scheduler asks while it decides."""

    wake_at: float
    """When to decide again, even if nothing happens; `inf` for never."""

    def begin(self, now: float) -> None:
        """Begin a decision: an event was taken in, or time has passed."""
        ...

    def line(self) -> Iterator[Entry]:
        """Yield the models that someone waits for, in the order in which they are served."""
        ...

    def is_urgent(self, entry: Entry) -> bool:
        """Return whether somebody waits for a model who does not give way to all others."""
        ...

    def breaks_off(self, claim: Claim, oldest: Claim) -> bool:
        """Return whether a request waits for another turn, since this one waits elsewhere."""
        ...

    def ahead(self, entry: Entry, claim: Claim) -> int:
        """Return how many who wait for a model are called up before a request, waiting or not."""
        ...

    def goes_before(self, entry: Entry) -> bool:
        """Return whether those behind this model in line leave room for it."""
        ...

    def has_place(self, claim: Claim, waiting: int) -> bool:
        """Return whether the queue holds a request, as the last of so many that wait."""
        ...

    def call_up(self, entry: Entry) -> Ticket | None:
        """Return whose turn it is on an awake model; None when nobody's is."""
        ...

    def must_finish(self, entry: Entry) -> bool:
        """Return whether a load goes on although another model is wanted."""
        ...

    def kept_until(self, entry: Entry, wanted: Entry) -> float:
        """Return until when a model may not be asked to leave for another one."""
        ...

    def wait_until(self, until: float, wanted: Entry) -> None:
        """Take note that somebody is kept for so long while this model is wanted."""
        ...

    def turn_s(self, entry: Entry) -> float:
        """Return for how long others may be kept awake before this model has its turn."""
        ...


class Fifo:
    """First come, first served: whoever waits longest leads, and nobody is kept.

    Args:
        entries: All models, a live view.
        intents: The models that operators want, a live view.
        rules: The settings that decide.
    """

    wake_at = inf

    def __init__(
        self, entries: Mapping[str, Entry], intents: Collection[str], rules: Rules
    ) -> None:
        self._entries = entries
        self._intents = intents
        self._rules = rules

    def begin(self, now: float) -> None:
        """Do nothing: this policy knows no time."""

    def line(self) -> Iterator[Entry]:
        """Yield operators' models first, then all by the oldest request."""
        yield from [self._entries[model] for model in self._intents]
        requested = [e for e in self._entries.values() if e.waiting]
        requested.sort(key=lambda e: next(iter(e.waiting)))
        yield from [e for e in requested if e.needs.model not in self._intents]

    def is_urgent(self, entry: Entry) -> bool:
        """Return whether anybody waits for it."""
        return bool(entry.waiting)

    def breaks_off(self, claim: Claim, oldest: Claim) -> bool:
        """Return whether it came after that one."""
        return claim.since > oldest.since

    def ahead(self, entry: Entry, claim: Claim) -> int:
        """Return how many came before it."""
        return sum(1 for _ in takewhile(lambda c: c is not claim, entry.waiting.values()))

    def goes_before(self, entry: Entry) -> bool:  # noqa: ARG002  # of every model
        """Return true: nobody overtakes."""
        return True

    def has_place(self, claim: Claim, waiting: int) -> bool:  # noqa: ARG002  # whose it is
        """Return whether the queue is not full."""
        return waiting <= self._rules.queue_limit

    def call_up(self, entry: Entry) -> Ticket | None:
        """Return the oldest request."""
        return next(iter(entry.waiting), None)

    def must_finish(self, entry: Entry) -> bool:
        """Return whether somebody waits for the load, or it is to be finished anyway."""
        return entry.state is State.STARTING and (
            bool(entry.waiting) or self._rules.unwanted_load == "finish"
        )

    def kept_until(self, entry: Entry, wanted: Entry) -> float:  # noqa: ARG002  # whoever they are
        """Return a time that is over: nobody is kept."""
        return -inf

    def wait_until(self, until: float, wanted: Entry) -> None:
        """Do nothing: nobody is ever kept."""

    def turn_s(self, entry: Entry) -> float:  # noqa: ARG002  # for every model
        """Return 0: nobody is kept."""
        return 0.0
