"""What a wait will cost, from what waits have cost. Pure: measured seconds in, seconds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

Durations = Mapping[str, Sequence[float]]
"""Seconds that a stage took the last times, newest last, by stage."""

RECENT = 5
"""How many of the newest measurements count: engines and disks change."""

GUESS_S = 30.0
"""What a start that was never measured is taken for."""

MARGIN = 1.3
"""How much longer than the longest that is known a stage may be."""

LONG = 3.0
"""How much longer than usual a lease may be out."""


def expected_s(durations: Durations, stage: str) -> float | None:
    """Return the expected seconds of a stage; None where it was never measured."""
    measured = durations.get(stage)
    return median(measured[-RECENT:]) if measured else None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request that waits has to expect.

    Attributes:
        place: In line, over all models; 1 is the next.
        wait_s: Seconds until it has its engine.
        is_measured: Whether all models that come up until then have done so before.
    """

    place: int
    wait_s: float
    is_measured: bool = True


@dataclass(frozen=True, slots=True)
class Pace:
    """How what was measured is taken for what is to come.

    Attributes:
        careful: Whether a stage takes as long as the longest that is known, and a lease
            longer than most; else each takes what it usually does.
    """

    careful: bool = False

    def stage_s(self, durations: Durations, stage: str) -> float:
        """Return the seconds of a stage."""
        measured = durations.get(stage)
        if not measured:
            guess_s = GUESS_S if stage == "start" or stage.startswith("wake") else 1.0
            return 4 * guess_s if self.careful else guess_s
        return MARGIN * max(measured) if self.careful else median(measured[-RECENT:])

    def left_s(self, whole_s: float, elapsed_s: float) -> float:
        """Return the seconds that a stage under way still needs; at least a tenth of the whole."""
        return max(whole_s - elapsed_s, whole_s / 10)

    def lease_s(self, usual_s: float) -> float:
        """Return for how long a lease is out."""
        return LONG * usual_s if self.careful else usual_s


USUAL: Final = Pace()
CAREFUL: Final = Pace(careful=True)
