"""The real pynvml over a real shared library with NVML's ABI, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nvml.library import FakeDevice, build

READ = """
import json
from llm_backend.config.device import DeviceSpec
from llm_backend.gpu.nvml import NvmlProbe
probe = NvmlProbe({"gpu0": DeviceSpec(), "gpu1": DeviceSpec(index=1)})
r = probe.read("gpu0")
holders = None if r is None or r.holders is None else sorted((h.pid, h.mib) for h in r.holders)
print(json.dumps([probe.unavailable, r and (r.name, r.total_mib, r.free_mib), holders]))
assert probe.read("gpu1") is None
probe.close()
assert probe.read("gpu0") is None
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path / "card", 16303)


def read(device: FakeDevice, library: Path) -> Any:
    """Return why nothing can be read, the figures, and who holds how much."""
    environment = {**os.environ, **device.environment(library)}
    ran = subprocess.run(
        [sys.executable, "-c", READ],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    return json.loads(ran.stdout)


def test_a_device_that_nobody_uses(device: FakeDevice, library: Path) -> None:
    name = "A device that does not exist"
    assert read(device, library) == [None, [name, 16303, 16303], []]


def test_holders_with_and_without_a_name(device: FakeDevice, library: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as gone:
        device.hold(gone.pid, 1000)
    device.hold(os.getpid(), 2048)
    device.reserve(500)

    _, (_, _, free_mib), holders = read(device, library)

    assert free_mib == 16303 - 2048 - 500
    assert holders == [[os.getpid(), 2048]]
    device.linger("never")
    _, (_, _, free_mib), holders = read(device, library)
    assert free_mib == 16303 - 2048 - 500 - 1000
    assert holders == [[os.getpid(), 2048]]


def test_more_holders_than_the_first_call_makes_room_for(device: FakeDevice, library: Path) -> None:
    pids = [os.getpid(), os.getppid()]
    for pid in pids:
        device.hold(pid, 10)

    assert read(device, library)[2] == sorted([pid, 10] for pid in pids)


def test_figures_that_the_system_hides(device: FakeDevice, library: Path) -> None:
    device.hold(os.getpid(), 2048)
    device.hide_process_memory()
    assert read(device, library)[1:] == [
        ["A device that does not exist", 16303, 14255],
        [[os.getpid(), None]],
    ]
    device.hide_processes()
    assert read(device, library)[2] is None


def test_a_driver_that_is_not_loaded(device: FakeDevice, library: Path) -> None:
    (device.folder / "total").unlink()

    assert read(device, library) == ["Driver Not Loaded", None, None]
