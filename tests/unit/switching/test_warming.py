"""When the files of the next model are read ahead, and when that stops."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_backend.errors import ShuttingDown, SwitchSuperseded
from llm_backend.switching.entry import Entry
from llm_backend.switching.events import Needs
from llm_backend.switching.keeper import Launch
from llm_backend.switching.lease import Lease
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher
from llm_backend.switching.warming import Warming
from tests.unit.switching.loopback import KIND, PATIENCE_S, Loopback, plan, spec, switcher

pytestmark = pytest.mark.anyio


class Shelf:
    """The files of one model, handed out one by one; what was taken is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = asyncio.Event()
        self.ended = asyncio.Event()
        self.taken = 0
        self._loop = asyncio.get_running_loop()
        self._next: queue.Queue[bool] = queue.Queue()

    def __call__(self) -> Iterator[Path]:
        """Run in the thread that reads."""
        self._loop.call_soon_threadsafe(self.asked.set)
        try:
            while self._next.get(timeout=PATIENCE_S):
                path = self.folder / f"{self.taken}.gguf"
                path.write_bytes(os.urandom(1024))
                self.taken += 1
                yield path
        finally:
            self._loop.call_soon_threadsafe(self.ended.set)

    def give(self) -> None:
        """Have one more file."""
        self._next.put(True)

    def close(self) -> None:
        """Have no more files."""
        self._next.put(False)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


@asynccontextmanager
async def shelf(folder: Path) -> AsyncIterator[Shelf]:
    made = Shelf(folder)
    try:
        yield made
    finally:
        made.close()


def entry(model: str, state: State, rung: int | None = None) -> Entry:
    return Entry(Needs(model, "gpu", 1, {}), state=state, rung=rung)


class TestWhen:
    """On states that are set by hand."""

    @pytest.mark.parametrize("leaving", [State.DRAINING, State.STOPPING])
    @pytest.mark.parametrize(
        ("state", "rung"), [(State.STOPPED, None), (State.FAILED, None), (State.ASLEEP, 2)]
    )
    async def test_while_another_one_leaves(
        self, tmp_path: Path, leaving: State, state: State, rung: int | None
    ) -> None:
        entries = {"a": entry("a", leaving), "b": entry("b", state, rung)}
        async with shelf(tmp_path) as files:
            warming = Warming({"b": files}, entries)
            warming.want("gpu", "b")
            await soon(files.asked)
            files.close()
            await warming.close()

    @pytest.mark.parametrize(
        ("other", "state", "rung"),
        [
            (State.AWAKE, State.STOPPED, None),
            (State.STOPPED, State.STOPPED, None),
            (State.DRAINING, State.STARTING, None),
            (State.DRAINING, State.AWAKE, None),
            (State.STOPPING, State.ASLEEP, 1),
        ],
    )
    async def test_else_not(
        self, tmp_path: Path, other: State, state: State, rung: int | None
    ) -> None:
        entries = {"a": entry("a", other), "b": entry("b", state, rung)}
        async with shelf(tmp_path) as files:
            warming = Warming({"b": files}, entries)
            warming.want("gpu", "b")
            files.close()
            await warming.close()
            assert not files.asked.is_set()

    async def test_once_for_each_wish(self, tmp_path: Path) -> None:
        entries = {"a": entry("a", State.DRAINING), "b": entry("b", State.STOPPED)}
        async with shelf(tmp_path) as files:
            warming = Warming({"b": files}, entries)
            warming.want("gpu", "b")
            files.close()
            await soon(files.ended)
            files.asked.clear()
            entries["a"].state = State.STOPPING
            warming.review()
            await warming.close()
            assert not files.asked.is_set()

    async def test_files_that_cannot_be_found_harm_nobody(self) -> None:
        def files() -> Iterator[Path]:
            raise RuntimeError("the store is away")

        entries = {"a": entry("a", State.DRAINING), "b": entry("b", State.STOPPED)}
        warming = Warming({"b": files}, entries)
        warming.want("gpu", "b")
        await warming.close()


def to_start(entries: dict[str, Entry], warming: Warming) -> None:
    entries["a"].state, entries["b"].state = State.STOPPED, State.STARTING
    warming.review()


def to_keep(entries: dict[str, Entry], warming: Warming) -> None:
    entries["a"].state = State.AWAKE
    warming.review()


def to_unwish(_: dict[str, Entry], warming: Warming) -> None:
    warming.want("gpu", None)


def to_wish_another(_: dict[str, Entry], warming: Warming) -> None:
    warming.want("gpu", "c")


@pytest.mark.parametrize("change", [to_start, to_keep, to_unwish, to_wish_another])
async def test_it_stops_with(
    tmp_path: Path, change: Callable[[dict[str, Entry], Warming], None]
) -> None:
    entries = {
        "a": entry("a", State.DRAINING),
        "b": entry("b", State.STOPPED),
        "c": entry("c", State.STOPPED),
    }
    async with shelf(tmp_path) as files:
        warming = Warming({"b": files, "c": tuple}, entries)
        warming.want("gpu", "b")
        await soon(files.asked)
        change(entries, warming)
        files.give()
        files.give()
        await soon(files.ended)
        assert files.taken == 1, "the one that it was waiting for"
        await warming.close()


class TestTheSwitcher:
    """A real switcher, with engines in this process."""

    @asynccontextmanager
    async def draining(
        self, folder: Path, files: Shelf
    ) -> AsyncIterator[tuple[Switcher, Lease, asyncio.Task[None]]]:
        """A switch to `b` that waits for a lease on `a`."""
        runtime = Loopback()
        a = Launch(spec("a"), KIND, runtime, lambda _: plan("a"))
        b = Launch(spec("b"), KIND, runtime, lambda _: plan("b"), files)
        async with switcher(folder, runtime, launches=[a, b]) as owner:
            await owner.switch("a")
            with owner.lease("a") as lease:
                switch = asyncio.create_task(owner.switch("b"))
                await soon(files.asked)
                yield owner, lease, switch
            await asyncio.wait({switch})

    async def test_reads_while_the_old_engine_drains(self, tmp_path: Path) -> None:
        async with (
            shelf(tmp_path) as files,
            self.draining(tmp_path, files) as (owner, _, switch),
        ):
            assert owner.entries["a"].state is State.DRAINING
            files.give()
            files.close()
            await soon(files.ended)
            assert files.taken == 1
        assert switch.exception() is None

    async def test_stops_when_the_load_begins(self, tmp_path: Path) -> None:
        async with shelf(tmp_path) as files:
            async with self.draining(tmp_path, files) as (owner, lease, switch):
                lease.__exit__(None, None, None)
                await switch
                assert owner.awake() == ["b"]
                files.give()
                files.give()
                await soon(files.ended)
            assert files.taken == 1

    async def test_stops_when_the_wish_goes_away(self, tmp_path: Path) -> None:
        async with (
            shelf(tmp_path) as files,
            self.draining(tmp_path, files) as (owner, _, switch),
        ):
            await owner.switch("a")
            await asyncio.wait({switch})
            assert isinstance(switch.exception(), SwitchSuperseded)
            files.give()
            files.give()
            await soon(files.ended)
            assert files.taken == 1

    async def test_stops_with_the_gateway(self, tmp_path: Path) -> None:
        async with (
            shelf(tmp_path) as files,
            self.draining(tmp_path, files) as (owner, _, switch),
        ):
            closing = asyncio.create_task(owner.close())
            async with asyncio.timeout(PATIENCE_S):
                while not files.ended.is_set():
                    files.give()  # there is no end of them
                    await asyncio.sleep(0.01)
            await closing
            await asyncio.wait({switch})
            assert isinstance(switch.exception(), ShuttingDown)
