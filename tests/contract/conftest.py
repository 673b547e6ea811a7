"""What the contract suite runs on: a bench for each runtime.

anyio_backend: every test runs on asyncio's own loop and on uvloop.
bench: one runtime over an empty state, whose engines are fake engines. It is closed after the
    test, which fails if a process, a held lock or a bound port is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import llm_backend
from llm_backend.engines.base import LaunchPlan, file_name
from llm_backend.runtimes.base import Engine
from llm_backend.runtimes.locks import is_held
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.testing import fake_engine

ROOT = Path(llm_backend.__file__).parents[1]
PATIENCE_S = 20.0


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param


class ProcessBench:
    """The process runtime with fake engines, and what tests may see of them from outside."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.lock_dir = folder / "locks"
        self._folder = folder
        self._runtimes: list[ProcessRuntime] = []
        self._engines: list[Engine] = []
        self.runtime = self.new_runtime()

    def new_runtime(self, **options: Any) -> ProcessRuntime:
        """A runtime over the same state: what the next gateway would have."""
        runtime = ProcessRuntime(self.state_dir, self.lock_dir, **options)
        self._runtimes.append(runtime)
        return runtime

    def plan(self, model: str = "a", *flags: str, **fields: Any) -> LaunchPlan:
        """A plan for a fake engine with these flags."""
        served = f"served-{model}"
        argv = fake_engine.command(
            "--served-model-name", served, "--journal", str(self._journal(model)), *flags
        )
        defaults = {"group": "cpu", "served_name": served, "fingerprint": "1", "stop_s": 5.0}
        return LaunchPlan(model=model, argv=argv, cwd=str(ROOT), **{**defaults, **fields})

    async def start(self, plan: LaunchPlan, runtime: ProcessRuntime | None = None) -> Engine:
        engine = await (runtime or self.runtime).start(plan)
        self._engines.append(engine)
        return engine

    async def start_ready(self, plan: LaunchPlan) -> Engine:
        engine = await self.start(plan)
        await self.event(plan.model, "ready")
        return engine

    def _journal(self, model: str) -> Path:
        return self._folder / f"{file_name(model)}.journal"

    def journal(self, model: str, event: str) -> list[dict[str, Any]]:
        """The events of this name that the engines of a model wrote down."""
        path = self._journal(model)
        lines = path.read_text().splitlines() if path.exists() else []
        return [note for note in map(json.loads, lines) if note["event"] == event]

    async def event(self, model: str, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`-th event of this name."""
        await self.until(lambda: len(self.journal(model, event)) >= count)
        return self.journal(model, event)[count - 1]

    async def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            await asyncio.sleep(0.01)

    async def get(self, engine: Engine, path: str) -> tuple[int, Any]:
        """GET from an engine."""
        return await self._ask(engine, f"GET {path} HTTP/1.1\r\n\r\n")

    async def post(self, engine: Engine, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """POST to an engine."""
        data = json.dumps(body)
        return await self._ask(
            engine, f"POST {path} HTTP/1.1\r\ncontent-length: {len(data)}\r\n\r\n{data}"
        )

    async def _ask(self, engine: Engine, request: str) -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection(engine.host, engine.port)
        try:
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(head.split(" ")[1]), json.loads(await reader.readexactly(length) or b"null")
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def processes(self) -> list[psutil.Process]:
        """Every living process that an engine of this bench is or has started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LLM_BACKEND_STATE") == str(self.state_dir):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def held_locks(self) -> list[str]:
        return [path.name for path in self.lock_dir.glob("*") if is_held(path)]

    def bound_ports(self) -> list[int]:
        return [engine.port for engine in self._engines if _is_bound(engine)]

    async def close(self) -> None:
        """End all, by the same way as a gateway would, and prove it."""
        for runtime in self._runtimes:
            await runtime.close()
        sweeper = self.new_runtime()
        await sweeper.survey([])
        await sweeper.close()
        assert self.processes() == []
        assert self.held_locks() == []
        assert self.bound_ports() == []


def _descriptors() -> int:
    # uvloop keeps one to /dev/null after its first connection.
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link != Path(os.devnull) for link in links)


def _is_bound(engine: Engine) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((engine.host, engine.port))
        except OSError:
            return True
    return False


@pytest.fixture(params=[ProcessBench])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessBench]:
    descriptors = _descriptors()
    bench = request.param(tmp_path)
    try:
        yield bench
    finally:
        await bench.close()
    assert _descriptors() <= descriptors, "a descriptor was left open"
