"""What a wait will cost, from what waits have cost. Pure: measured seconds in, seconds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

Durations = Mapping[str, Sequence[float]]
"""Seconds that a stage took the last times, newest last, by stage."""

RECENT = 5
"""How many of the newest measurements count: engines and disks change."""

GUESS_S = 30.0
"""What a stage that was never measured is taken for."""


def expected_s(durations: Durations, stage: str) -> float | None:
    """Return the expected seconds of a stage; None where it was never measured."""
    measured = durations.get(stage)
    return median(measured[-RECENT:]) if measured else None


def remaining_s(durations: Durations, stage: str, elapsed_s: float) -> float | None:
    """Return the seconds that a running stage still needs; never below a tenth of the whole."""
    whole = expected_s(durations, stage)
    return None if whole is None else max(whole - elapsed_s, whole / 10)


def switch_s(leaving: Sequence[Durations], coming: Durations) -> float:
    """Return the expected seconds to stop some models, one after another, and start one."""
    stops = [expected_s(d, "stop") or 1.0 for d in leaving]
    return sum(stops) + (expected_s(coming, "start") or GUESS_S)


def return_s(here: Durations, there: Durations) -> float:
    """Return the expected seconds of a switch from one model to another, and back again."""
    return switch_s([here], there) + switch_s([there], here)
