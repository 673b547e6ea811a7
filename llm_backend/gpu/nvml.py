"""Reads NVIDIA devices through NVML, the library that comes with the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil
import pynvml

from llm_backend.config.device import DeviceSpec
from llm_backend.gpu.base import GpuSnapshot, Holder

MIB = 1024 * 1024


class NvmlProbe:
    """Reads the devices of the catalog that are CUDA devices.

    Without a driver it starts just as well, and every reading is None.
    """

    def __init__(self, devices: Mapping[str, DeviceSpec]) -> None:
        self._devices = {n: d for n, d in devices.items() if d.kind == "cuda"}
        try:
            pynvml.nvmlInit()
            self.unavailable: str | None = None
        except pynvml.NVMLError as error:
            self.unavailable = str(error)

    def close(self) -> None:
        """Let go of the driver."""
        if self.unavailable is None:
            pynvml.nvmlShutdown()
            self.unavailable = "closed"

    def read(self, device: str) -> GpuSnapshot | None:
        """Return the state of a CUDA device; None where it cannot be read."""
        spec = self._devices.get(device)
        if spec is None or self.unavailable is not None:
            return None
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(spec.index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            return GpuSnapshot(
                device=device,
                name=str(pynvml.nvmlDeviceGetName(handle)),
                total_mib=memory.total // MIB,
                free_mib=memory.free // MIB,
                holders=_holders(handle),
            )
        except pynvml.NVMLError:
            return None


def _holders(handle: object) -> Sequence[Holder] | None:
    # Containers and WSL2 may not show processes, or show them without their memory.
    try:
        computing = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        drawing = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    processes = {p.pid: p for p in [*drawing, *computing]}  # one that does both is listed twice
    return [
        Holder(p.pid, _process_name(p.pid), p.usedGpuMemory and p.usedGpuMemory // MIB)
        for p in processes.values()
    ]


def _process_name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None
