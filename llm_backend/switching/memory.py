"""The memory ledger: what is free on the devices, who holds the rest, and when a start may go on.

Device-level free memory decides. Who holds it is advice: containers and WSL2 may not show it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm_backend.config.device import DeviceSpec
from llm_backend.errors import DeviceBusy
from llm_backend.gpu.base import GpuProbe, GpuSnapshot, Holder
from llm_backend.runtimes.marks import STATE_VARIABLE

POLL_S = 0.25
RETRY_AFTER_S = 10.0
"""A refused request tries again so soon: each try waits for the memory once more."""

UNNAMED_MIB = 256
"""Less than this is the driver's own, and not worth telling."""

Owner = Callable[[int], bool]
"""Tells whether a process belongs to an engine of this gateway."""


def nobody(_: int) -> bool:
    """Own no process."""
    return False


def engines_of(state_dir: Path) -> Owner:
    """Return who owns the processes of the engines of a state directory: they carry its mark."""
    state = str(state_dir.resolve())

    def owns(pid: int) -> bool:
        try:
            return psutil.Process(pid).environ().get(STATE_VARIABLE) == state
        except psutil.Error:
            return False

    return owns


@dataclass(frozen=True, slots=True)
class Account:
    """Who holds the memory of a device, as far as the system shows it.

    Attributes:
        reading: What the device says.
        ours: Processes of this gateway's engines.
        foreign: All others.
    """

    reading: GpuSnapshot
    ours: Sequence[Holder]
    foreign: Sequence[Holder]

    @property
    def foreign_mib(self) -> int | None:
        """What others hold; None where the system shows no figures."""
        if self.reading.holders is None or any(h.mib is None for h in self.foreign):
            return None
        return sum(h.mib or 0 for h in self.foreign)

    def describe(self) -> str:
        """Return who holds the memory, in sentences for people."""
        if self.reading.holders is None:
            return "The system does not show which processes hold it."
        others = ", ".join(map(str, self.foreign)) or "no process that the system shows"
        text = f"Held by: {others}."
        if self.ours:
            text += f" By engines of this gateway: {', '.join(map(str, self.ours))}."
        named = [h.mib for h in self.reading.holders]
        unnamed = self.reading.used_mib - sum(mib or 0 for mib in named)
        if None not in named and unnamed >= UNNAMED_MIB:
            text += f" {unnamed} MiB are held by nobody that the system names."
        return text


class MemoryGate:
    """Lets a model start only when what it reserves is free on its devices.

    Args:
        probe: Reads the devices.
        devices: The devices of the catalog: how full each may become.
        owner: Tells our engines' processes from all others.
    """

    def __init__(
        self,
        probe: GpuProbe,
        devices: Mapping[str, DeviceSpec] | None = None,
        owner: Owner = nobody,
    ) -> None:
        self._probe = probe
        self._devices = devices or {}
        self._owner = owner

    async def wait_for(self, model: str, mib: Mapping[str, int], deadline_s: float) -> None:
        """Return when every device has the memory free; engines give it back with a delay.

        A device that cannot be read is not waited for.

        Raises:
            DeviceBusy: it is not free after `deadline_s` seconds; names who holds it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            refusal = await asyncio.to_thread(self._refusal, model, mib)
            if refusal is None:
                return
            if loop.time() >= deadline:
                raise DeviceBusy(refusal, retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(POLL_S)

    async def wait_until_handed_over(
        self, device: str, mib: int | None, deadline_s: float
    ) -> str | None:
        """Wait until memory of a device is free for another program.

        Args:
            device: Its name in the catalog.
            mib: How much; None for all that our engines held.
            deadline_s: Longest wait, in seconds.

        Returns:
            Who holds it, if it is not free by then; None when it is, or nobody can know.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while (held := await asyncio.to_thread(self._held_back, device, mib)) is not None:
            if loop.time() >= deadline:
                return held
            await asyncio.sleep(POLL_S)
        return None

    async def free_mib(self, devices: Iterable[str]) -> dict[str, int]:
        """Return what is free, by device; one that cannot be read is left out."""
        readings = [await asyncio.to_thread(self._probe.read, device) for device in devices]
        return {r.device: r.free_mib for r in readings if r is not None}

    def account(self, device: str) -> Account | None:
        """Return who holds the memory of a device; None where it cannot be read. Blocks."""
        reading = self._probe.read(device)
        if reading is None:
            return None
        holders = reading.holders or ()
        ours = [h for h in holders if self._owner(h.pid)]
        return Account(reading, ours, [h for h in holders if h not in ours])

    def _refusal(self, model: str, mib: Mapping[str, int]) -> str | None:
        """Return why a model cannot start now; None when it can."""
        for device, needed in mib.items():
            reading = self._probe.read(device)
            if reading is None or not needed or needed <= self._available(reading):
                continue
            account = self.account(device)
            who = account.describe() if account else ""
            return (
                f"{model} needs {needed} MiB on {device} ({reading.name}); "
                f"{reading.free_mib} of {reading.total_mib} MiB are free"
                f"{self._ceiling_text(reading)}. {who}"
            )
        return None

    def _held_back(self, device: str, mib: int | None) -> str | None:
        account = self.account(device)
        if account is None:
            return None
        reading, needed = account.reading, mib
        if needed is None:  # all that models may take, less what was never ours to give back
            room = self._devices[device].room_mib(reading.total_mib) or 0
            needed = room - (account.foreign_mib or 0)
        if reading.free_mib >= needed:
            return None
        free = f"{reading.free_mib} of {reading.total_mib} MiB of {device} are free"
        return f"{free}. {account.describe()}"

    def _available(self, reading: GpuSnapshot) -> int:
        return reading.free_mib - self._kept_free(reading)

    def _kept_free(self, reading: GpuSnapshot) -> int:
        spec = self._devices.get(reading.device)
        return 0 if spec is None else reading.total_mib - int(reading.total_mib * spec.highest_use)

    def _ceiling_text(self, reading: GpuSnapshot) -> str:
        kept = self._kept_free(reading)
        return f", and {kept} stay so (devices.{reading.device}.ceiling)" if kept else ""
