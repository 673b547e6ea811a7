"""NVIDIA devices: read where there is a driver, and no trouble at all where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pynvml
import pytest

from llm_backend.config.device import DeviceSpec
from llm_backend.gpu import nvml
from llm_backend.gpu.nvml import NvmlProbe

DEVICES = {
    "cpu": DeviceSpec(kind="cpu"),
    "gpu0": DeviceSpec(kind="cuda", index=0),
    "gpu63": DeviceSpec(kind="cuda", index=63),
}


@pytest.fixture
def probe() -> Iterator[NvmlProbe]:
    probe = NvmlProbe(DEVICES)
    yield probe
    probe.close()
    probe.close()


def test_what_cannot_be_read_is_none(probe: NvmlProbe) -> None:
    assert probe.read("cpu") is None
    assert probe.read("nothing") is None
    assert probe.read("gpu63") is None


def test_the_first_gpu(probe: NvmlProbe) -> None:
    snapshot = probe.read("gpu0")
    if probe.unavailable is not None:
        assert snapshot is None
        return
    assert snapshot is not None
    assert snapshot.device == "gpu0"
    assert 0 <= snapshot.free_mib <= snapshot.total_mib
    assert snapshot.name


def test_nothing_is_read_after_the_end(probe: NvmlProbe) -> None:
    probe.close()
    assert probe.unavailable is not None
    assert probe.read("gpu0") is None


# What a driver answers, where this machine has none. The library is C behind ctypes: its Python
# side is the boundary that is stood in for.


class Process:
    """An entry of the driver's list of processes."""

    def __init__(self, pid: int, used: int | None) -> None:
        self.pid = pid
        self.usedGpuMemory = used


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    class Memory:
        total, free = 16303 * 2**20, 3000 * 2**20

    def handle(index: int) -> int:
        if index:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return index

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: Memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: "NVIDIA GeForce RTX 5080")
    running = [Process(os.getpid(), 2048 * 2**20), Process(2**22 - 1, None)]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda _: running)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", lambda _: running[:1])
    return monkeypatch


def test_a_reading(driver: pytest.MonkeyPatch) -> None:
    probe = NvmlProbe(DEVICES)
    snapshot = probe.read("gpu0")
    assert snapshot is not None
    assert (snapshot.total_mib, snapshot.free_mib) == (16303, 3000)
    assert snapshot.holders is not None
    ours, other = snapshot.holders
    assert (ours.pid, ours.mib) == (os.getpid(), 2048)
    assert (other.name, other.mib) == (None, None)
    assert str(other) == f"a process of another container (pid {2**22 - 1})"
    assert str(ours).endswith(f"(pid {os.getpid()}, 2048 MiB)")
    assert probe.read("gpu63") is None


def test_a_driver_that_shows_no_processes(driver: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    driver.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", refuse)
    snapshot = NvmlProbe(DEVICES).read("gpu0")
    assert snapshot is not None
    assert snapshot.holders is None
    assert nvml.MIB == 2**20
