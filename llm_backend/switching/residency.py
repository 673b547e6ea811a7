"""How far a model leaves the device: a ladder from awake over two kinds of sleep to stopped.

A rung that was never tried is tried once, the lighter sleep first; after that the one that cost
the least, there and back, has it. A rung that failed is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from llm_backend.switching.estimates import GUESS_S, Durations, expected_s

Rung = int
"""A level of vLLM's sleep mode: 1 keeps the weights in the RAM of the host, 2 drops them."""

HOST: Final = "RAM of the host"
"""The name under which sleepers reserve what they take of the host's memory."""

LOST_S: Final = 600.0
"""For so long a rung that failed is not tried again."""

WAYS_DOWN: Final[Mapping[Rung, str]] = {1: "sleep_1", 2: "sleep_2"}
WAYS_UP: Final[Mapping[Rung, str]] = {1: "wake_1", 2: "wake_2"}


def choose(rungs: Iterable[Rung], durations: Durations, *, measured: bool) -> Rung | None:
    """Return how far a model is to leave; None to stop its engine.

    Args:
        rungs: Those that it may take now and that fit.
        durations: What its stages took.
        measured: Whether what they took decides; else the lightest sleep does.
    """
    offered = sorted(rungs)
    if not offered:
        return None
    if not measured:
        return offered[0]
    costs = {rung: _there_and_back_s(durations, rung) for rung in offered}
    untried = [rung for rung, cost in costs.items() if cost is None]
    if untried:
        return untried[0]
    known = {rung: cost for rung, cost in costs.items() if cost is not None}
    best = min(known, key=lambda rung: known[rung])
    stopping = _sum_s(durations, "stop", "start")
    return best if stopping is None or known[best] < stopping else None


def trip_s(durations: Durations, rung: Rung | None) -> float:
    """Return the expected seconds to leave the device by a rung, or a stop, and come back.

    A switch from one model to another, and back again, takes the trips of both.
    """
    down, up = ("stop", "start") if rung is None else (WAYS_DOWN[rung], WAYS_UP[rung])
    return (expected_s(durations, down) or 1.0) + (expected_s(durations, up) or GUESS_S)


def _there_and_back_s(durations: Durations, rung: Rung) -> float | None:
    return _sum_s(durations, WAYS_DOWN[rung], WAYS_UP[rung])


def _sum_s(durations: Durations, down: str, up: str) -> float | None:
    seconds = (expected_s(durations, down), expected_s(durations, up))
    return None if None in seconds else sum(s for s in seconds if s is not None)
