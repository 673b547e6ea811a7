"""What a device has and what is free on it: device-level figures decide, the rest is advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device, as far as the system shows it."""

    pid: int
    name: str
    mib: int | None


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """One reading of a device. Sizes in MiB."""

    device: str
    name: str
    total_mib: int
    free_mib: int
    holders: Sequence[Holder] = ()

    @property
    def used_mib(self) -> int:
        """What is taken, by anyone."""
        return self.total_mib - self.free_mib


class GpuProbe(Protocol):
    """Reads devices. Never raises for a missing driver: it answers None."""

    def read(self, device: str) -> GpuSnapshot | None:
        """Return the state of a device of the catalog; None where it cannot be read."""
        ...
