"""Reads the CPU as a device: what engines may take is the free memory of the machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

import psutil

from llm_backend.config.device import DeviceSpec
from llm_backend.gpu.base import GpuProbe, GpuSnapshot

MIB = 1024 * 1024


class SystemProbe:
    """Reads the devices of the catalog that are CPUs."""

    def __init__(self, devices: Mapping[str, DeviceSpec]) -> None:
        self._devices = {n for n, d in devices.items() if d.kind == "cpu"}

    def read(self, device: str) -> GpuSnapshot | None:
        """Return the machine's memory for a CPU device; None for any other."""
        if device not in self._devices:
            return None
        memory = psutil.virtual_memory()
        return GpuSnapshot(
            device=device,
            name=f"CPU, {psutil.cpu_count()} cores, {platform.machine()}",
            total_mib=memory.total // MIB,
            free_mib=memory.available // MIB,
        )


class Probes:
    """Asks several probes in turn."""

    def __init__(self, probes: Sequence[GpuProbe]) -> None:
        self._probes = probes

    def read(self, device: str) -> GpuSnapshot | None:
        """Return the first reading that there is."""
        readings = (probe.read(device) for probe in self._probes)
        return next((r for r in readings if r is not None), None)
