"""What a device has and what is free on it: device-level figures decide, the rest is advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device, as far as the system shows it.

    Attributes:
        pid: Its process id, as the driver sees it.
        name: Its name; None where it is not visible from here, as in another container.
        mib: What it holds, in MiB; None where the system does not say.
    """

    pid: int
    name: str | None
    mib: int | None

    def __str__(self) -> str:
        held = "" if self.mib is None else f", {self.mib} MiB"
        return f"{self.name or 'a process of another container'} (pid {self.pid}{held})"


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """One reading of a device. Sizes in MiB.

    Attributes:
        device: Its name in the catalog.
        name: What its maker calls it.
        total_mib: Its size.
        free_mib: What nobody holds.
        holders: Who holds memory; None where the system does not show processes.
    """

    device: str
    name: str
    total_mib: int
    free_mib: int
    holders: Sequence[Holder] | None = None

    @property
    def used_mib(self) -> int:
        """What is taken, by anyone."""
        return self.total_mib - self.free_mib


class GpuProbe(Protocol):
    """Reads devices. Never raises for a missing driver: it answers None."""

    def read(self, device: str) -> GpuSnapshot | None:
        """Return the state of a device of the catalog; None where it cannot be read."""
        ...
