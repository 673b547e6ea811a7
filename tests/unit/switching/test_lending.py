"""Who lends devices: names leases, ends them on time, waits for memory, remembers them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.device import DeviceSpec
from llm_backend.errors import Conflict, DeviceBusy, InvalidRequest, NotFound
from llm_backend.gpu.base import GpuSnapshot, Holder
from llm_backend.switching import events as ev
from llm_backend.switching import lending, memory
from llm_backend.switching.feed import Feed, Notice
from llm_backend.switching.lending import Lending, LoanFile, Wish, left_s
from llm_backend.switching.memory import MemoryGate

pytestmark = pytest.mark.anyio

PATIENCE_S = 20
CARD = {"gpu0": DeviceSpec(kind="cuda"), "gpu1": DeviceSpec(kind="cuda")}


class Card:
    """A device whose free memory a test sets."""

    free_mib = 16303

    def read(self, device: str) -> GpuSnapshot | None:
        return GpuSnapshot(device, "RTX 5080", 16303, self.free_mib, (Holder(7, "blender", None),))


class Bench:
    """Lending, with everything around it but the scheduler, whose answers a test gives.

    Attributes:
        events: What the scheduler was told.
        clear: Set where devices are clear as soon as somebody asks.
    """

    def __init__(self, path: Path) -> None:
        self.events: list[ev.Event] = []
        self.told: list[Notice] = []
        self.clear = asyncio.Event()
        self.clear.set()
        self.card = Card()
        self.feed = Feed()
        gate = MemoryGate(self.card, CARD)
        file = LoanFile(path)
        self.lending = Lending(
            self.events.append, self._ask, gate, self.feed, file, {"gpu0": 14767}
        )

    async def _ask(self, make: Callable[[ev.Ticket], ev.Event]) -> None:
        self.events.append(make(1))
        await self.clear.wait()

    @property
    def states(self) -> list[str]:
        return [notice.data["state"] for notice in self.told]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "POLL_S", 0.001)
    monkeypatch.setattr(lending, "MEMORY_S", 0.02)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with asyncio.timeout(PATIENCE_S):
        bench = Bench(tmp_path / "leases.json")
        with bench.feed.listening(bench.told.append):
            yield bench
        await bench.lending.close()


def wish(mib: int | None = None, ttl_s: float = 600.0, device: str = "gpu0") -> Wish:
    return Wish(device, mib, ttl_s, "ComfyUI")


def taken(bench: Bench) -> list[ev.DeviceLease]:
    return [event.lease for event in bench.events if isinstance(event, ev.LeaseTaken)]


async def test_taken_and_given(bench: Bench) -> None:
    loan = await bench.lending.take(wish(8000))

    (lease,) = taken(bench)
    assert loan.ready
    assert (lease.device, lease.mib, lease.reason) == ("gpu0", 8000, "ComfyUI")
    assert 0 < left_s(lease) <= 600.0
    assert abs(loan.expires_at - time.time() - 600.0) < PATIENCE_S

    bench.lending.give(lease.ident)

    assert bench.events[-1] == ev.LeaseGiven(lease.ident)
    assert bench.lending.loans == {}
    assert bench.states == ["taken", "ready", "given"]
    assert bench.told[0].data["id"] == lease.ident
    with pytest.raises(NotFound, match=f"no device lease '{lease.ident}'"):
        bench.lending.give(lease.ident)


async def test_it_ends_when_its_time_is_over(bench: Bench) -> None:
    over = asyncio.Event()
    with bench.feed.listening(
        lambda notice: over.set() if notice.data["state"] == "expired" else None
    ):
        loan = await bench.lending.take(wish(ttl_s=0.05))
        await over.wait()

    assert bench.events[-1] == ev.LeaseGiven(loan.lease.ident)
    assert bench.lending.loans == {}


async def test_who_does_not_wait_is_told_later(bench: Bench) -> None:
    bench.clear.clear()
    ready = asyncio.Event()

    loan = bench.lending.begin(wish())
    assert not loan.ready
    with bench.feed.listening(
        lambda notice: ready.set() if notice.data["state"] == "ready" else None
    ):
        bench.clear.set()
        await ready.wait()

    assert bench.lending.loans[loan.lease.ident].ready


async def test_a_part_that_does_not_become_free_is_not_lent(bench: Bench) -> None:
    bench.card.free_mib = 7999

    with pytest.raises(DeviceBusy, match="8000 MiB of gpu0 did not become free") as raised:
        await bench.lending.take(wish(8000))

    assert "blender (pid 7)" in str(raised.value)
    assert bench.states == ["taken", "failed"]
    assert isinstance(bench.events[-1], ev.LeaseGiven)
    assert bench.lending.loans == {}


async def test_the_whole_device_is_lent_with_a_note_of_who_holds_some_of_it(bench: Bench) -> None:
    bench.card.free_mib = 5000

    loan = await bench.lending.take(wish())

    assert loan.note is not None
    assert "5000 of 16303 MiB of gpu0 are free" in loan.note


async def test_one_that_is_given_back_while_the_memory_is_awaited(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "MEMORY_S", PATIENCE_S)
    bench.card.free_mib = 0
    begun = asyncio.Event()
    with bench.feed.listening(lambda _: begun.set()):
        taking = asyncio.create_task(bench.lending.take(wish(100)))
        await begun.wait()

    bench.lending.give(next(iter(bench.lending.loans)))
    bench.card.free_mib = 16303

    with pytest.raises(Conflict, match="ended before its memory was free"):
        await taking


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (wish(14768), "14768 MiB are more than the 14767 MiB of gpu0"),
        (wish(1, device="gpu1"), "1 MiB of gpu1 cannot be set apart: its size is not known"),
    ],
)
async def test_what_a_device_cannot_have_free(bench: Bench, wanted: Wish, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await bench.lending.take(wanted)
    assert bench.events == []


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (wish(8000), wish(6767), True),
        (wish(8000), wish(6768), False),
        (wish(), wish(1), False),
        (wish(1), wish(), False),
        (wish(device="gpu1"), wish(), True),
        (wish(device="gpu1"), wish(device="gpu1"), False),
    ],
)
async def test_leases_beside_each_other(
    bench: Bench, first: Wish, second: Wish, fits: bool
) -> None:
    await bench.lending.take(first)
    if fits:
        await bench.lending.take(second)
    else:
        with pytest.raises(Conflict, match=f"{second.device} is leased already"):
            await bench.lending.take(second)
    assert len(bench.lending.loans) == 1 + fits


async def test_they_outlive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    async with asyncio.timeout(PATIENCE_S):
        before = Bench(path)
        loan = await before.lending.take(wish(8000))
        await before.lending.close()

        after = Bench(path)
        after.lending.open()
        kept = after.lending.loans[loan.lease.ident]
        await after.lending.close()

    assert kept.expires_at == loan.expires_at
    assert (kept.lease.device, kept.lease.mib, kept.lease.reason) == ("gpu0", 8000, "ComfyUI")
    assert abs(kept.lease.until - loan.lease.until) < PATIENCE_S


GOOD = {"device": "gpu0", "mib": None, "reason": "x", "expires_at": 4e9}


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        (GOOD, True),
        (GOOD | {"mib": 5}, True),
        (GOOD | {"expires_at": 5.0}, False),
        (GOOD | {"expires_at": "soon"}, False),
        (GOOD | {"mib": "all"}, False),
        ({}, False),
        ("nothing", False),
    ],
)
def test_what_a_file_may_hold(tmp_path: Path, entry: Any, kept: bool) -> None:
    path = tmp_path / "leases.json"
    path.write_text(json.dumps({"x": entry}))

    loaded = LoanFile(path).load()

    assert set(loaded) == ({"x"} if kept else set())
    for wanted, _ in loaded.values():
        assert 0 < wanted.ttl_s <= lending.LONGEST_S


async def test_a_lease_that_nobody_sees_ready_leaves_no_task(bench: Bench) -> None:
    bench.clear.clear()
    bench.lending.begin(wish())
    waiting: list[asyncio.Task[Any]] = [t for t in asyncio.all_tasks() if "lease" in t.get_name()]

    await bench.lending.close()

    assert [task.cancelled() for task in waiting] == [True]
