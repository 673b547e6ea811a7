"""The composition root: the only place that builds the edge and wires them together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
import uvicorn

from llm_backend import __version__
from llm_backend.config import check, load_catalog, refuse
from llm_backend.config.catalog import Catalog
from llm_backend.config.settings import Settings
from llm_backend.core import build_core, lock_dir
from llm_backend.errors import SetupError
from llm_backend.gateway.auth import admin_key
from llm_backend.gateway.edge import Edge, build_edge
from llm_backend.gateway.protocol import BoundedProtocol, bounded_protocol
from llm_backend.gateway.record import Note
from llm_backend.replay.recorder import ArrivalRecorder
from llm_backend.runtimes import logfile
from llm_backend.runtimes.locks import gateway_lock
from llm_backend.switching.feed import Listener
from llm_backend.switching.history import write_json
from llm_backend.telemetry import logs
from llm_backend.telemetry.traces import tracing

log = structlog.get_logger(__name__)

SHUTDOWN_GRACE_S = 30
"""How long running requests may take after SIGTERM."""

KEEP_ALIVE_S = 75

LOG_LIMIT = 32 * 1024 * 1024
"""Bytes of the gateway's own log file; as much again is kept of what was before."""


def run(
    settings: Settings,
    *,
    catalog: Catalog | None = None,
    log_path: Path | None = None,
    listeners: Sequence[Listener] = (),
) -> int:
    """Run the gateway until SIGTERM or SIGINT; return the exit status.

    Args:
        settings: Everything that can be set.
        catalog: All models; by default those of the file that the settings name.
        log_path: Where the gateway's output goes, if to a file; for the run record.
        listeners: Told of every state change and step, before anything else happens.

    Raises:
        SetupError: it cannot run like this; the message is for a person.
    """
    logs.configure(settings.logs.level, settings.logs.format)
    catalog = load_catalog(settings.catalog) if catalog is None else catalog
    refuse(check(settings, catalog))
    with gateway_lock(lock_dir(settings)), _listening(settings) as listener:
        address = Address.of(listener, settings)
        runner = uvicorn_runner()
        return runner.run(_serve(settings, catalog, listener, address, log_path, listeners))


def uvicorn_runner() -> asyncio.Runner:
    """Return a runner on uvloop, where there is one."""
    try:
        import uvloop  # noqa: PLC0415  # it does not exist on every platform
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway can be reached."""

    host: str
    port: int

    @classmethod
    def of(cls, listener: socket.socket, settings: Settings) -> Address:
        """Return the address of a listening socket, as clients on this machine use it."""
        server = settings.server
        host, port = server.host, int(listener.getsockname()[1])
        if settings.setup == "compose":  # its own address is one inside a container
            host, port = server.published_host or host, server.published_port or port
        # Whoever listens on all addresses of a family is reached on its loopback one.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return cls(host, port)

    @property
    def url(self) -> str:
        """As a URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SetupError(
            f"The gateway cannot listen on {host}:{port}: {error.strerror}.",
            hint="Another port: LLM_SERVER__PORT=7001 bash scripts/start_all.sh",
        ) from None
    with listener:
        yield listener


async def _serve(
    settings: Settings,
    catalog: Catalog,
    listener: socket.socket,
    address: Address,
    log_path: Path | None,
    listeners: Sequence[Listener],
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        edge = await stack.enter_async_context(_parts(settings, catalog))
        everyone: list[Listener] = [*listeners, edge.narrator, edge.services.timeline]
        for told in everyone:
            stack.enter_context(edge.switcher.feed.listening(told))
        limits = settings.limits
        bounds = (limits.headers_kib * 1024, limits.head_s, limits.slow_client_s)
        protocol = bounded_protocol(*bounds, edge.services.metrics.refuse)
        server = GatewayServer(edge, protocol)
        stack.enter_context(_run_record(settings, address, log_path))
        await edge.switcher.open()
        edge.services.ready = True
        if log_path is not None:
            bounding = asyncio.create_task(logfile.keep_small(log_path, LOG_LIMIT))
            stack.callback(bounding.cancel)
        _settle_down()
        log.info("gateway_ready", url=address.url, models=edge.services.fleet.available())
        await server.serve(sockets=[listener])
    log.info("gateway_stopped")
    return 0


def _settle_down() -> None:
    """Leave what was built at the start out of every later garbage collection.

    Requests leave next to no cycles behind, but allocate enough for the collector to look through
    all of the frameworks' objects again and again: a third of the CPU time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class GatewayServer(uvicorn.Server):
    """uvicorn with one worker, told to stop by this process's own signal handlers."""

    def __init__(self, edge: Edge, protocol: type[BoundedProtocol]) -> None:
        config = uvicorn.Config(
            edge.app,
            http=protocol,
            lifespan="off",
            workers=1,  # one process owns the device, whatever WEB_CONCURRENCY says
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            ws="none",
        )
        super().__init__(config)
        self._edge = edge

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; uvicorn's own way would kill us before the cleanup."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        log.info("gateway_stopping", signal=number.name)
        self._edge.services.ready = False
        self._edge.services.stopping.set()
        self._edge.switcher.refuse_newcomers()
        self._edge.switcher.feed.publish("step", step="shutting_down", elapsed_s=0.0)
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


@contextlib.asynccontextmanager
async def _parts(settings: Settings, catalog: Catalog) -> AsyncIterator[Edge]:
    """Build everything; on leaving, release it in the reverse order."""
    async with contextlib.AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(tracing(settings.telemetry.otlp_endpoint))
        core = await stack.enter_async_context(build_core(settings, catalog))
        arrivals = await stack.enter_async_context(_arrivals(settings))
        if tracer is not None:
            hear = tracer.hear
            listener = core.switcher.feed.listening(lambda n: hear(n.kind, n.data))
            stack.enter_context(listener)
        edge = build_edge(settings, core.fleet, core.switcher, core.devices, arrivals, tracer)
        yield await stack.enter_async_context(edge)


@contextlib.asynccontextmanager
async def _arrivals(settings: Settings) -> AsyncIterator[Note | None]:
    """Return who notes arrivals, if the settings name a file for them."""
    path = settings.switching.record
    if path is None:
        yield None
        return
    secret = hashlib.sha256(b"trace keys" + admin_key(settings.state_dir).encode()).digest()
    async with ArrivalRecorder.writing(path, secret) as recorder:
        yield recorder.note


@contextlib.contextmanager
def _run_record(settings: Settings, address: Address, log_path: Path | None) -> Iterator[None]:
    """Tell the CLI where this gateway is; gone again when it stops."""
    path = settings.state_dir / "gateway.json"
    record = {
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "url": address.url,
        "version": __version__,
        "setup": settings.runs_as,
        "log": str(log_path) if log_path else None,
        "started": time.time(),
    }
    if settings.setup == "compose":
        record["container"] = socket.gethostname()
    write_json(path, record)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
