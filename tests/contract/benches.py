"""A bench for each runtime: the runtime over an empty state, and what tests may see from outside."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

import docker
import psutil
from docker.errors import ImageNotFound
from docker.utils import kwargs_from_env

import llm_backend
from llm_backend.engines.base import LaunchPlan, Upkeep, file_name
from llm_backend.runtimes.base import Engine, Runtime
from llm_backend.runtimes.docker import DockerRuntime
from llm_backend.runtimes.external import ExternalRuntime
from llm_backend.runtimes.locks import is_held
from llm_backend.runtimes.ports import free_port
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.testing import fake_engine

ROOT = Path(llm_backend.__file__).parents[1]
PATIENCE_S = 20.0

T = TypeVar("T", bound=Runtime)


class Bench(Generic[T]):
    """A runtime with fake engines, and what tests may see of them from outside."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.lock_dir = folder / "locks"
        self._folder = folder
        self._runtimes: list[T] = []
        self._engines: list[Engine] = []
        self.runtime = self.new_runtime()

    def new_runtime(self, **options: Any) -> T:
        """A runtime over the same state: what the next gateway would have."""
        runtime = self._make(**options)
        self._runtimes.append(runtime)
        return runtime

    def _make(self, **options: Any) -> T:
        raise NotImplementedError

    def plan(self, model: str = "a", *flags: str, **fields: Any) -> LaunchPlan:
        """A plan for a fake engine with these flags."""
        served = f"served-{model}"
        argv = fake_engine.command(
            "--served-model-name", served, "--journal", str(self._journal(model)), *flags
        )
        defaults = {
            "argv": argv,
            "group": "cpu",
            "served_name": served,
            "fingerprint": "1",
            "stop_s": 5.0,
        }
        return LaunchPlan(model=model, cwd=str(ROOT), **{**defaults, **fields})

    async def start(self, plan: LaunchPlan, runtime: T | None = None) -> Engine:
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


class ProcessBench(Bench[ProcessRuntime]):
    """Engines are processes."""

    def _make(self, **options: Any) -> ProcessRuntime:
        return ProcessRuntime(self.state_dir, self.lock_dir, **options)


class ExternalBench(Bench[ExternalRuntime]):
    """Engines are servers of somebody else: of this bench, which starts them and never ends them
    by the runtime.
    """

    def __init__(self, folder: Path) -> None:
        self._ports: dict[str, int] = {}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__(folder)

    def _make(self, **options: Any) -> ExternalRuntime:
        return ExternalRuntime(self.state_dir, **options)

    def plan(self, model: str = "a", *flags: str, **fields: Any) -> LaunchPlan:
        port = self._ports.setdefault(model, free_port("127.0.0.1"))
        own = {"port": port, "upkeep": Upkeep(interval_s=0.05), **fields}
        return super().plan(model, *flags, **own)

    async def start(self, plan: LaunchPlan, runtime: ExternalRuntime | None = None) -> Engine:
        self._serve(plan)
        return await super().start(plan, runtime)

    def _serve(self, plan: LaunchPlan) -> None:
        server = self._servers.get(plan.model)
        if server is None or server.poll() is not None:
            argv = [word.replace("{port}", str(plan.port)) for word in plan.argv]
            mark = {**os.environ, "LLM_BACKEND_STATE": str(self.state_dir)}
            self._servers[plan.model] = subprocess.Popen(argv, cwd=plan.cwd, env=mark)

    async def close(self) -> None:
        for server in self._servers.values():
            server.kill()
            server.wait(PATIENCE_S)
        await super().close()


class DockerBench(Bench[DockerRuntime]):
    """Engines are containers, made of what this machine has: an empty image, and mounts.

    They share the machine's network, so that an engine's port is one of this machine.
    """

    IMAGE = "llm-backend-contract:empty"

    def __init__(self, folder: Path, host: str | None = None) -> None:
        self.host = host
        address = {"base_url": host} if host else kwargs_from_env()
        self.docker = docker.APIClient(version="auto", **address)
        self.prefix = f"llm-contract-{uuid4().hex[:8]}"
        self._made: dict[str, tuple[str, ...]] = {}
        self._ports: dict[str, int] = {}
        super().__init__(folder)

    def _make(self, **options: Any) -> DockerRuntime:
        return DockerRuntime(
            options.pop("host", self.host), self.state_dir, self.lock_dir, **options
        )

    def name(self, model: str) -> str:
        return f"{self.prefix}-{file_name(model)}"

    def plan(self, model: str = "a", *flags: str, **fields: Any) -> LaunchPlan:
        port = self._ports.setdefault(model, free_port("127.0.0.1"))
        plan = super().plan(
            model, *flags, **{"port": port, "container": self.name(model), **fields}
        )
        command = tuple(word.replace("{port}", str(port)) for word in plan.argv)
        if self._made.get(model) != command:
            self.create(model, command, init="argv" not in fields)
        return plan

    def create(
        self, model: str, command: tuple[str, ...], *, init: bool = True, **host: Any
    ) -> None:
        """Make a container, as compose does; one of this name goes first."""
        self.remove(model)
        self._image()
        shared = {"/bin", "/etc", "/lib", "/lib64", "/usr", sys.prefix, sys.base_prefix, str(ROOT)}
        binds = [f"{path}:{path}:ro" for path in sorted(shared) if Path(path).exists()]
        self.docker.create_container(
            self.IMAGE,
            list(command),
            name=self.name(model),
            environment={"LLM_BACKEND_STATE": str(self.state_dir), "PYTHONDONTWRITEBYTECODE": "1"},
            working_dir=str(ROOT),
            ports=list(host.get("port_bindings", ())),
            host_config=self.docker.create_host_config(
                **{
                    "binds": [*binds, f"{self._folder}:{self._folder}"],
                    "network_mode": "host",
                    "init": init,
                    **host,
                }
            ),
        )
        self._made[model] = command

    def remove(self, model: str) -> None:
        if self._made.pop(model, None) is not None:
            self.docker.remove_container(self.name(model), force=True)

    def _image(self) -> None:
        try:
            self.docker.inspect_image(self.IMAGE)
        except ImageNotFound:
            empty = io.BytesIO()
            with tarfile.open(fileobj=empty, mode="w") as tar:
                folder = tarfile.TarInfo("tmp")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(folder)
            repository, _, tag = self.IMAGE.partition(":")
            self.docker.import_image_from_data(empty.getvalue(), repository=repository, tag=tag)

    def journal(self, model: str, event: str) -> list[dict[str, Any]]:
        """The same, with process ids as this machine counts them."""
        outside = {_inner_pid(process): process.pid for process in self.processes()}
        return [
            {**note, "pid": outside.get(note["pid"], note["pid"])}
            for note in super().journal(model, event)
        ]

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            for model in list(self._made):
                self.remove(model)
            self.docker.close()
        # A call that was under way when its runtime was closed ends by itself.
        await self.until(lambda: not _docker_threads())


def _docker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("docker")]


def _inner_pid(process: psutil.Process) -> int:
    """The id that a process has in its own namespace."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return process.pid


def _is_bound(engine: Engine) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((engine.host, engine.port))
        except OSError:
            return True
    return False
