"""Engines in this process: a runtime whose engines are small HTTP servers on the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from llm_backend.config.catalog import CommandEngine, ModelSpec
from llm_backend.engines.base import EngineKind, LaunchPlan, Progress
from llm_backend.errors import EngineStartFailed
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.switching.events import Rules
from llm_backend.switching.feed import Feed
from llm_backend.switching.history import DoubtFile, History, WantedFile
from llm_backend.switching.keeper import Launch, Tools
from llm_backend.switching.lending import LoanFile
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.switcher import Switcher
from llm_backend.switching.watch import WatchRules

PATIENCE_S = 20.0
KIND = EngineKind("command", progress_of=lambda line: Progress(line) if "load" in line else None)


class EngineServer:
    """Answers by path.

    Attributes:
        answers: Status and body by path; what is not here is a 404.
        silent: Paths on which nothing is ever answered.
        asked: The paths that were asked for.
    """

    def __init__(self) -> None:
        self.answers = {"/health": (200, ""), "/v1/completions": (200, "{}")}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    def answer(self, path: str) -> tuple[int, str]:
        """Return status and body."""
        return self.answers.get(path, (404, ""))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        lengths = [x.split(":")[1] for x in head.lower().splitlines() if "content-length" in x]
        await reader.readexactly(int(lengths[0]) if lengths else 0)
        self.asked.append(path)
        if path in self.silent:
            await reader.read()
            return False
        status, body = self.answer(path)
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        return True


class Loopback:
    """The runtime. It fails a test in which two engines of a group run at a time.

    Attributes:
        servers: The running engines' servers, by model.
        fails: Why the next start fails, by model.
        slow: Starts and stops wait for this event, where it is set to one.
        stop_fails: How many stops fail before one works.
        left: Engines that an earlier gateway left, for `survey`.
        resting: Models whose engines let another one of their group run.
    """

    def __init__(self) -> None:
        self.servers: dict[str, EngineServer] = {}
        self.starts: list[str] = []
        self.fails: dict[str, str] = {}
        self.slow: asyncio.Event | None = None
        self.stop_fails = 0
        self.left: list[Engine] = []
        self.resting: set[str] = set()
        self.prepared: dict[str, EngineServer] = {}
        self._exits: dict[str, asyncio.Future[Exit]] = {}
        self._instances = count(1)

    def prepare(self, model: str) -> EngineServer:
        """Return the server that the next engine of a model will be."""
        return self.prepared.setdefault(model, EngineServer())

    async def start(self, plan: LaunchPlan) -> Engine:
        self.starts.append(plan.model)
        if self.slow is not None:
            await self.slow.wait()
        if plan.model in self.fails:
            raise EngineStartFailed(self.fails.pop(plan.model))
        assert self.servers.keys() <= self.resting, "another engine of the group runs"
        return await self.run(plan)

    async def run(self, plan: LaunchPlan) -> Engine:
        server = self.prepare(plan.model)
        del self.prepared[plan.model]
        port = await server.open()
        instance = f"{plan.model}-{next(self._instances)}"
        self.servers[plan.model] = server
        self._exits[instance] = asyncio.get_running_loop().create_future()
        where = (instance, plan.model, plan.host, port, plan.served_name)
        return Engine(*where, plan.fingerprint, plan.group, instance)

    async def end(self, engine: Engine, reason: str, code: int = 0) -> None:
        """Let an engine end by itself."""
        self.resting.discard(engine.model)
        server = self.servers.pop(engine.model, None)
        if server is not None:
            await server.close()
            self._exits[engine.instance].set_result(Exit(code, reason))

    async def stop(self, engine: Engine, grace_s: float) -> Exit:  # noqa: ARG002 # the contract's names
        if self.slow is not None:
            await self.slow.wait()
        if self.stop_fails:
            self.stop_fails -= 1
            raise OSError("the driver is away")
        await self.end(engine, "exited with status 0")
        return await self.wait(engine)

    async def rest(self, engine: Engine) -> None:
        self.resting.add(engine.model)

    async def rouse(self, engine: Engine) -> None:
        if engine.model in self.fails:
            raise EngineStartFailed(self.fails.pop(engine.model))
        others = self.servers.keys() - {engine.model}
        assert others <= self.resting, "another engine of the group runs"
        self.resting.discard(engine.model)

    async def poll(self, engine: Engine) -> Exit | None:
        exit_ = self._exits[engine.instance]
        return exit_.result() if exit_.done() else None

    async def wait(self, engine: Engine) -> Exit:
        return await asyncio.shield(self._exits[engine.instance])

    async def survey(self, plans: Sequence[LaunchPlan]) -> Sequence[Engine]:  # noqa: ARG002 # the contract's names
        return self.left

    async def log_tail(self, model: str, lines: int) -> list[str]:  # noqa: ARG002 # the contract's names
        return [f"the last words of {model}"]

    async def follow_log(self, model: str, lines: int = 0) -> AsyncIterator[str]:  # noqa: ARG002 # the contract's names
        yield "loading weights"
        await asyncio.Event().wait()

    async def close(self) -> None:
        for server in self.servers.values():
            await server.close()


class Roomy:
    """A device with room for everything."""

    def read(self, device: str) -> GpuSnapshot | None:
        return GpuSnapshot(device, "CPU", 1000, 1000)


def spec(model: str, **fields: Any) -> ModelSpec:
    engine = CommandEngine(kind="command", argv=("true",))
    able: tuple[Any, ...] = ("chat",)
    return ModelSpec(
        id=model,
        runtimes=("process",),
        engine=engine,
        capabilities=able,
        devices=("cpu",),
        **fields,
    )


def plan(model: str) -> LaunchPlan:
    return LaunchPlan(model=model, group="cpu", served_name=model, fingerprint=f"f-{model}")


def launch(runtime: Loopback, model: str, **fields: Any) -> Launch:
    return Launch(spec(model, **fields), KIND, runtime, lambda _: plan(model))


@asynccontextmanager
async def tools(folder: Path, rules: WatchRules | None = None) -> AsyncIterator[Tools]:
    """What keepers share, released afterwards."""
    probe = EngineProbe()
    history = History(folder / "history.json")
    try:
        doubts = DoubtFile(folder / "doubts.json")
        doubts.load()
        gate, watch = MemoryGate(Roomy()), rules or WatchRules(30, 15)
        yield Tools(gate, probe, Feed(), history, watch, doubts)
    finally:
        await probe.close()


@asynccontextmanager
async def switcher(
    folder: Path,
    runtime: Loopback,
    *models: str,
    preload: str | None = None,
    launches: Sequence[Launch] = (),
    **rules: Any,
) -> AsyncIterator[Switcher]:
    """A switcher over these models, opened; afterwards it must let go of everything."""
    models = models or tuple(each.spec.id for each in launches)
    async with tools(folder) as shared:
        made = Switcher(
            launches or [launch(runtime, model) for model in models],
            concurrency=dict.fromkeys(models, 2),
            rules=Rules(**rules),
            tools=shared,
            wanted=WantedFile(folder / "wanted.json"),
            loans=LoanFile(folder / "device-leases.json"),
            preload=preload,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                await made.open()
                yield made
        finally:
            await made.close()
            await runtime.close()
