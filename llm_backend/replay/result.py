"""What came out of a simulation: the figures by which policies are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Literal

End = Literal["served", "refused", "timed_out", "left", "cut"]


@dataclass(slots=True)
class Outcome:
    """How one request fared.

    Attributes:
        model: What it asked for.
        key: Hash of its key.
        batch: Its class.
        sent_at: When it came.
        expected_s: The wait that the scheduler expected then; None where it was granted at once.
        waited_s: Seconds in line until it was granted, or left; None where it was turned away.
        end: How it ended.
    """

    model: str
    key: str
    batch: bool
    sent_at: float
    expected_s: float | None = None
    waited_s: float | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds in line, of several requests."""

    count: int
    p50_s: float
    p95_s: float
    max_s: float

    @classmethod
    def of(cls, waits: Iterable[float]) -> Waits:
        """Summarise waits."""
        ordered = sorted(waits)
        return cls(
            len(ordered),
            percentile(ordered, 0.5),
            percentile(ordered, 0.95),
            (ordered or [0.0])[-1],
        )


@dataclass(frozen=True, slots=True)
class Use:
    """What the device did, as shares of the time from the first request to the last answer.

    Attributes:
        serving: At least one request was worked on.
        switching: No request was, and an engine was on its way up or down.
        idle: Neither.
    """

    serving: float
    switching: float
    idle: float


@dataclass(frozen=True, slots=True)
class Span:
    """A model was awake from `begin` to `end`, in seconds from the first request."""

    model: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Result:
    """One trace under one policy.

    Attributes:
        trace: Its name.
        policy: What decided.
        profile: Name of the costs.
        seconds: From the first request to the end of the last one.
        requests: How many there were.
        ends: How they ended, by kind.
        loads: Starts of engines.
        switches: Those of them that brought another model than the one before.
        interactive: Waits of the class.
        batch: Waits of the class.
        keys: Waits by key.
        use: What the device did.
        estimate_error: Median error of the expected waits as a share of the real ones, of those
            of a second and more; None without any.
        spans: When which model was awake.
    """

    trace: str
    policy: str
    profile: str
    seconds: float
    requests: int
    ends: dict[str, int]
    loads: int
    switches: int
    interactive: Waits
    batch: Waits
    keys: dict[str, Waits]
    use: Use
    estimate_error: float | None
    spans: tuple[Span, ...] = field(repr=False)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of all does not exceed; 0 without values."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def count_ends(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return how many requests ended in each way; every way is there."""
    ends = dict.fromkeys(("served", "refused", "timed_out", "left", "cut"), 0)
    for outcome in outcomes:
        if outcome.end is not None:
            ends[outcome.end] += 1
    return ends


def waits_by_key(outcomes: Sequence[Outcome]) -> dict[str, Waits]:
    """Return the waits of each key, in the order of their first requests."""
    keys = dict.fromkeys(o.key for o in outcomes)
    return {key: Waits.of(waits(o for o in outcomes if o.key == key)) for key in keys}


def waits(outcomes: Iterable[Outcome]) -> list[float]:
    """Return the waits of those who were not turned away at once."""
    return [o.waited_s for o in outcomes if o.waited_s is not None]


def estimate_error(outcomes: Iterable[Outcome]) -> float | None:
    """Return the median error of the expected waits; see `Result.estimate_error`."""
    errors = [
        abs(o.expected_s - o.waited_s) / o.waited_s
        for o in outcomes
        if o.expected_s is not None
        and o.waited_s is not None
        and o.waited_s >= 1
        and o.end in {"served", "cut"}
    ]
    return median(errors) if errors else None
