"""The CPU as a device, and several probes as one."""

from __future__ import annotations

import psutil

from llm_backend.config.device import DeviceSpec
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.gpu.system import Probes, SystemProbe

DEVICES = {"cpu": DeviceSpec(kind="cpu"), "gpu0": DeviceSpec(kind="cuda")}


class Fixed:
    """Reads one device, always alike."""

    def __init__(self, device: str, free_mib: int) -> None:
        self._snapshot = GpuSnapshot(device, "fixed", 100, free_mib)

    def read(self, device: str) -> GpuSnapshot | None:
        return self._snapshot if device == self._snapshot.device else None


def test_the_memory_of_the_machine_is_that_of_its_cpu() -> None:
    snapshot = SystemProbe(DEVICES).read("cpu")
    assert snapshot is not None
    assert snapshot.total_mib == psutil.virtual_memory().total // 2**20
    assert 0 < snapshot.free_mib < snapshot.total_mib
    assert snapshot.used_mib == snapshot.total_mib - snapshot.free_mib
    assert snapshot.name.startswith("CPU, ")


def test_other_devices_are_not_its_business() -> None:
    assert SystemProbe(DEVICES).read("gpu0") is None
    assert SystemProbe(DEVICES).read("nothing") is None


def test_the_first_reading_counts() -> None:
    probes = Probes([Fixed("gpu0", 1), Fixed("gpu1", 2), Fixed("gpu1", 3)])
    readings = [probes.read(name) for name in ("gpu0", "gpu1", "gpu2")]
    assert [reading and reading.free_mib for reading in readings] == [1, 2, None]
