"""Is there room on the device? Device-level free memory decides, before every start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from llm_backend.errors import DeviceBusy
from llm_backend.gpu.base import GpuProbe, GpuSnapshot

POLL_S = 0.25


class MemoryGate:
    """Lets a model start only when what it reserves is free on its devices."""

    def __init__(self, probe: GpuProbe) -> None:
        self._probe = probe

    async def wait_for(self, model: str, mib: Mapping[str, int], deadline_s: float) -> None:
        """Return when every device has the memory free; engines give it back with a delay.

        Raises:
            DeviceBusy: it is not free after `deadline_s` seconds; names who holds it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            short = await asyncio.to_thread(self._short, mib)
            if short is None:
                return
            if loop.time() >= deadline:
                raise DeviceBusy(_explain(model, *short), retry_after_s=30)
            await asyncio.sleep(POLL_S)

    def _short(self, mib: Mapping[str, int]) -> tuple[GpuSnapshot, int] | None:
        for device, needed in mib.items():
            snapshot = self._probe.read(device)
            if snapshot is not None and snapshot.free_mib < needed:
                return snapshot, needed
        return None


def _explain(model: str, snapshot: GpuSnapshot, needed: int) -> str:
    holders = ", ".join(
        f"{h.name} (pid {h.pid}{'' if h.mib is None else f', {h.mib} MiB'})"
        for h in snapshot.holders
    )
    return (
        f"{model} needs {needed} MiB on {snapshot.device} ({snapshot.name}); "
        f"{snapshot.free_mib} of {snapshot.total_mib} MiB are free. "
        f"Held by: {holders or 'the system does not say whom'}."
    )
