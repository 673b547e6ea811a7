"""The ledger: a model starts when what it reserves is free; the device's own figures decide."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from llm_backend.config.device import DeviceSpec
from llm_backend.errors import DeviceBusy
from llm_backend.gpu.base import GpuSnapshot, Holder
from llm_backend.runtimes.marks import STATE_VARIABLE
from llm_backend.switching import memory
from llm_backend.switching.memory import MemoryGate, engines_of

pytestmark = pytest.mark.anyio

CARD = {"gpu0": DeviceSpec(kind="cuda")}
BLENDER = Holder(4711, "blender", 9000)


class Device:
    """Reads these MiB in turn, the last one again and again; None where it cannot be read."""

    def __init__(self, *free: int | None, holders: tuple[Holder, ...] | None = ()) -> None:
        self._free = list(free)
        self._holders = holders

    def read(self, device: str) -> GpuSnapshot | None:
        free = self._free.pop(0) if len(self._free) > 1 else self._free[0]
        return None if free is None else GpuSnapshot(device, "RTX 5080", 16303, free, self._holders)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "POLL_S", 0.001)


async def refusal(gate: MemoryGate, mib: Mapping[str, int]) -> str:
    with pytest.raises(DeviceBusy) as raised:
        await gate.wait_for("a", mib, 0.01)
    assert raised.value.retry_after_s is not None
    return str(raised.value)


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
    assert "a needs 60 MiB on gpu1" in await refusal(MemoryGate(Two()), {"gpu0": 60, "gpu1": 60})


async def test_the_device_is_never_filled_beyond_its_ceiling() -> None:
    kept = 16303 - 15487  # 95 %
    gate = MemoryGate(Device(14673 + kept), CARD)
    await gate.wait_for("a", {"gpu0": 14673}, 0)

    gate = MemoryGate(Device(14673 + kept - 1), CARD)
    text = await refusal(gate, {"gpu0": 14673})

    assert f"{14673 + kept - 1} of 16303 MiB are free, and {kept} stay so" in text
    assert "devices.gpu0.ceiling" in text


async def test_a_model_that_reserves_nothing_starts_on_a_full_device() -> None:
    await MemoryGate(Device(0), CARD).wait_for("a", {"gpu0": 0}, 0)


async def test_the_refusal_names_who_holds_it() -> None:
    holders = (BLENDER, Holder(12, "Xorg", None))
    text = await refusal(MemoryGate(Device(3000, holders=holders)), {"gpu0": 14673})
    assert "a needs 14673 MiB on gpu0 (RTX 5080); 3000 of 16303 MiB are free." in text
    assert "Held by: blender (pid 4711, 9000 MiB), Xorg (pid 12)." in text


async def test_our_engines_are_told_from_strangers() -> None:
    holders = (BLENDER, Holder(77, "python", 4000))
    gate = MemoryGate(Device(3000, holders=holders), CARD, owner=lambda pid: pid == 77)

    text = await refusal(gate, {"gpu0": 14673})

    assert "Held by: blender (pid 4711, 9000 MiB)." in text
    assert "By engines of this gateway: python (pid 77, 4000 MiB)." in text
    assert "303 MiB are held by nobody that the system names." in text
    account = gate.account("gpu0")
    assert account is not None
    assert account.foreign_mib == 9000


@pytest.mark.parametrize(
    ("holders", "words"),
    [
        (None, "The system does not show which processes hold it."),
        ((), "Held by: no process that the system shows. 16303 MiB are held by nobody"),
        ((Holder(4, None, 5000),), "a process of another container (pid 4, 5000 MiB)"),
    ],
)
async def test_the_refusal_where_the_system_does_not_say(
    holders: tuple[Holder, ...] | None, words: str
) -> None:
    assert words in await refusal(MemoryGate(Device(0, holders=holders)), {"gpu0": 1})


@pytest.mark.parametrize("holders", [None, (Holder(12, "Xorg", None),)])
def test_what_others_hold_is_unknown_without_figures(holders: tuple[Holder, ...] | None) -> None:
    account = MemoryGate(Device(0, holders=holders)).account("gpu0")
    assert account is not None
    assert account.foreign_mib is None


def test_an_unread_device_has_no_account() -> None:
    assert MemoryGate(Device(None)).account("gpu0") is None


async def test_a_part_is_handed_over_when_it_is_free() -> None:
    gate = MemoryGate(Device(1000, 8000), CARD)
    assert await gate.wait_until_handed_over("gpu0", 8000, 20) is None

    held = await MemoryGate(Device(7999, holders=(BLENDER,)), CARD).wait_until_handed_over(
        "gpu0", 8000, 0.01
    )

    assert held is not None
    assert held.startswith("7999 of 16303 MiB of gpu0 are free. Held by: blender")


async def test_the_whole_device_is_handed_over_when_all_of_ours_is_back() -> None:
    strangers = (Holder(4711, "blender", 5000),)
    room = 16303 - 1536 - 5000
    gate = MemoryGate(Device(room - 1, room, holders=strangers), CARD)

    assert await gate.wait_until_handed_over("gpu0", None, 20) is None
    assert await gate.wait_until_handed_over("gpu0", None, 0) is None


async def test_a_device_that_nobody_can_read_is_handed_over_at_once() -> None:
    assert await MemoryGate(Device(None), CARD).wait_until_handed_over("gpu0", None, 0) is None


def test_the_mark_of_a_state_directory_tells_its_engines(tmp_path: Path) -> None:
    marked = {**os.environ, STATE_VARIABLE: str(tmp_path.resolve())}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=marked) as process:
        assert engines_of(tmp_path)(process.pid)
        assert not engines_of(tmp_path / "other")(process.pid)
    assert not engines_of(tmp_path)(process.pid)
    assert not engines_of(tmp_path)(os.getpid())
