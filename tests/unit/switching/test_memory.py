"""A model starts when what it reserves is free: the device's own figures decide."""

from __future__ import annotations

import pytest

from llm_backend.errors import DeviceBusy
from llm_backend.gpu.base import GpuSnapshot, Holder
from llm_backend.switching import memory
from llm_backend.switching.memory import MemoryGate

pytestmark = pytest.mark.anyio


class Device:
    """Reads these MiB in turn, the last one again and again; None where it cannot be read."""

    def __init__(self, *free: int | None, holders: tuple[Holder, ...] = ()) -> None:
        self._free = list(free)
        self._holders = holders

    def read(self, device: str) -> GpuSnapshot | None:
        free = self._free.pop(0) if len(self._free) > 1 else self._free[0]
        return None if free is None else GpuSnapshot(device, "RTX 5080", 16303, free, self._holders)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "POLL_S", 0.001)


@pytest.mark.parametrize("free", [14673, 16303, None])
async def test_room_enough_or_nobody_knows(free: int | None) -> None:
    await MemoryGate(Device(free)).wait_for("a", {"gpu0": 14673}, 0)


async def test_memory_that_comes_back_late_is_waited_for() -> None:
    await MemoryGate(Device(100, 200, 14673)).wait_for("a", {"gpu0": 14673}, 20)


async def test_every_device_needs_the_room() -> None:
    class Two:
        def read(self, device: str) -> GpuSnapshot | None:
            return GpuSnapshot(device, "GPU", 100, {"gpu0": 100, "gpu1": 50}[device])

    await MemoryGate(Two()).wait_for("a", {"gpu0": 60, "gpu1": 50}, 0)
    with pytest.raises(DeviceBusy, match="a needs 60 MiB on gpu1"):
        await MemoryGate(Two()).wait_for("a", {"gpu0": 60, "gpu1": 60}, 0.01)


async def test_the_refusal_names_who_holds_it() -> None:
    holders = (Holder(4711, "blender", 9000), Holder(12, "Xorg", None))
    with pytest.raises(DeviceBusy) as raised:
        await MemoryGate(Device(3000, holders=holders)).wait_for("a", {"gpu0": 14673}, 0.01)
    text = str(raised.value)
    assert "a needs 14673 MiB on gpu0 (RTX 5080); 3000 of 16303 MiB are free." in text
    assert "blender (pid 4711, 9000 MiB), Xorg (pid 12)" in text
    assert raised.value.retry_after_s is not None


async def test_the_refusal_where_the_system_does_not_say() -> None:
    with pytest.raises(DeviceBusy, match="the system does not say whom"):
        await MemoryGate(Device(0)).wait_for("a", {"gpu0": 1}, 0)
