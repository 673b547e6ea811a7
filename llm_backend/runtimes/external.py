"""The external runtime: engines are servers that somebody else runs.

It starts and stops nothing. To start means to ask them whether they can serve, and to go on
asking; to stop means to ask no more. An engine has ended when none of its servers answers any
more. Every server may have its own key; TLS is verified by the certificates of this machine.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx2
import structlog

from llm_backend.engines.base import LaunchPlan, Server, Upkeep, file_name
from llm_backend.errors import EngineStartFailed, ServiceError
from llm_backend.runtimes import logfile
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.replicas import ReplicaSet

log = structlog.get_logger(__name__)

MISSES: Final = 3
"""So often in a row none of the servers answers, until the engine has ended."""
RETRY_S: Final = 0.5
"""How soon they are asked again while none of them answers."""
_ANSWER_LIMIT: Final = 64 * 1024
"""Bytes of an answer that are read, so that its connection can be used again; nobody needs them."""
_LET_GO: Final = Exit(None, "was let go of")


class ExternalRuntime:
    """Watches over servers that somebody else runs; see the module.

    Args:
        state_dir: Holds the logs: what was seen of the servers of each model.
    """

    def __init__(self, state_dir: Path) -> None:
        self._logs = state_dir.resolve() / "logs"
        self._watches: dict[str, Watch] = {}
        self._http: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def start(self, plan: LaunchPlan) -> Engine:
        """Begin to watch the servers of `plan`; return at once.

        Raises:
            EngineStartFailed: they are watched already, or the log cannot be written.
        """
        http = await self._client()
        if any(w.engine.model == plan.model for w in self._watches.values() if w.lives):
            raise EngineStartFailed(
                f"The engine of {plan.model} still runs, or is being started or stopped.",
                hint="See it with: llm-backend status",
            )
        try:
            os.close(await asyncio.to_thread(logfile.open_new, self._log(plan.model)))
        except OSError as error:
            raise EngineStartFailed(f"The log of {plan.model} cannot be made: {error}.") from error
        for instance in [i for i, w in self._watches.items() if w.engine.model == plan.model]:
            del self._watches[instance]
        watch = Watch(plan, http, self._log(plan.model))
        self._watches[watch.engine.instance] = watch
        return watch.engine

    async def stop(self, engine: Engine, grace_s: float) -> Exit:  # noqa: ARG002  # the contract's
        """Ask its servers no more; they go on."""
        watch = self._watches.get(engine.instance)
        return await watch.end() if watch else _LET_GO

    async def rest(self, engine: Engine) -> None:
        """Do nothing: no lock is held.

        Raises:
            ServiceError: it has ended.
        """
        if await self.poll(engine):
            raise ServiceError(f"The engine of {engine.model} has ended.")

    async def rouse(self, engine: Engine) -> None:
        """Do nothing: no lock is needed.

        Raises:
            EngineStartFailed: it has ended.
        """
        if await self.poll(engine):
            raise EngineStartFailed(f"The engine of {engine.model} has ended.")

    async def poll(self, engine: Engine) -> Exit | None:
        """Return why it has ended; None while any of its servers answers."""
        watch = self._watches.get(engine.instance)
        return watch.exit if watch else _LET_GO

    async def wait(self, engine: Engine) -> Exit:
        """Wait until none of its servers answers any more."""
        watch = self._watches.get(engine.instance)
        return await asyncio.shield(watch.ended) if watch else _LET_GO

    async def survey(self, plans: Sequence[LaunchPlan]) -> Sequence[Engine]:
        """Return the engines of these plans of which a server answers now."""
        engines = [await self.start(plan) for plan in plans]
        watches = [self._watches[engine.instance] for engine in engines]
        await asyncio.gather(*(watch.asked.wait() for watch in watches))  # which has a deadline
        for watch in watches:
            if not watch.replicas.up:
                await watch.end()
        return [watch.engine for watch in watches if watch.lives]

    async def log_tail(self, model: str, lines: int) -> list[str]:
        """Return what was last seen of the servers of a model."""
        return await asyncio.to_thread(logfile.tail, self._log(model), lines)

    def follow_log(self, model: str, lines: int = 0) -> AsyncIterator[str]:
        """Yield the last `lines` of that, then what comes, until closed."""
        return logfile.follow(self._log(model), lines)

    async def close(self) -> None:
        """Ask nobody any more."""
        for watch in self._watches.values():
            await watch.end()
        if self._http is not None:
            await self._http.aclose()

    def _log(self, model: str) -> Path:
        return self._logs / f"{file_name(model)}.log"

    async def _client(self) -> httpx2.AsyncClient:
        async with self._opening:
            if self._http is None:
                # Reads the certificates of this machine. A proxy of the environment must never see
                # traffic to an engine.
                trusted = await asyncio.to_thread(ssl.create_default_context)
                self._http = httpx2.AsyncClient(
                    verify=trusted, trust_env=False, follow_redirects=False
                )
            return self._http


class Watch:
    """Asks the servers of one engine whether they can serve, from its start to its end.

    Attributes:
        engine: The engine.
        replicas: Its servers.
        asked: Set once all were asked, or nobody will be.
        ended: Done when the engine has ended; its result is why.
    """

    def __init__(self, plan: LaunchPlan, http: httpx2.AsyncClient, log_path: Path) -> None:
        first = Engine(
            instance=uuid4().hex,
            model=plan.model,
            host=plan.host,
            port=plan.port,
            served_name=plan.served_name,
            fingerprint=plan.fingerprint,
            group=plan.group,
            handle="",
            key=plan.key,
            tls=plan.tls,
        )
        servers = list(dict.fromkeys([first, *(_at(first, each) for each in plan.replicas)]))
        loop = asyncio.get_running_loop()
        self.replicas = ReplicaSet(servers, loop.time)
        self.engine = replace(
            first, handle=", ".join(each.url for each in servers), replicas=self.replicas
        )
        self.asked = asyncio.Event()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self._upkeep = plan.upkeep
        self._http = http
        self._log_path = log_path
        self._task = asyncio.create_task(self._watch(), name=f"servers of {plan.model}")
        self._task.add_done_callback(self._not_unnoticed)

    @property
    def lives(self) -> bool:
        """Whether the engine has not ended."""
        return not self.ended.done()

    @property
    def exit(self) -> Exit | None:
        """Why it has ended; None where it has not."""
        return self.ended.result() if self.ended.done() else None

    async def end(self) -> Exit:
        """Ask no more; return why it has ended, if it had before."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self.ended.done():
            self.ended.set_result(_LET_GO)
        return self.ended.result()

    async def _watch(self) -> None:
        misses = 0
        while misses < MISSES:
            await asyncio.gather(*map(self._ask, self.replicas.servers))
            self.asked.set()
            misses = 0 if self.replicas.up else misses + 1
            if misses < MISSES:
                await asyncio.sleep(RETRY_S if misses else self._upkeep.interval_s)
        troubles = "; ".join(f"{s.url}: {why}" for s, why in self.replicas.troubles.items())
        self.ended.set_result(Exit(None, f"cannot be reached ({troubles})"))

    def _not_unnoticed(self, task: asyncio.Task[None]) -> None:
        """End the engine where a defect ended the watch: it must not seem awake for ever."""
        self.asked.set()
        if not task.cancelled() and task.exception() is not None and self.lives:
            log.error("engine_watch_defect", model=self.engine.model, exc_info=task.exception())
            self.ended.set_result(Exit(None, "could not be watched"))

    async def _ask(self, server: Engine) -> None:
        trouble = await trouble_of(self._http, server, self._upkeep)
        if self.replicas.note(server, trouble):
            with suppress(OSError):  # a full disk must not end the watch
                line = f"{server.url}: {trouble or 'can serve'}"
                await asyncio.to_thread(_write, self._log_path, line)


def _at(engine: Engine, server: Server) -> Engine:
    return replace(engine, host=server.host, port=server.port, key=server.key, tls=server.tls)


async def trouble_of(http: httpx2.AsyncClient, server: Engine, upkeep: Upkeep) -> str | None:
    """Return why a server cannot serve, in a few words; None where it says that it can."""
    trouble = None
    for path in upkeep.paths:
        status = await _status(http, server, path, upkeep.deadline_s)
        if status == httpx2.codes.OK:
            return None
        trouble = status if isinstance(status, str) else f"GET {path} answers HTTP status {status}"
        if status not in {httpx2.codes.NOT_FOUND, httpx2.codes.METHOD_NOT_ALLOWED}:
            break
    return trouble


async def _status(
    http: httpx2.AsyncClient, server: Engine, path: str, deadline_s: float
) -> int | str:
    """Return the HTTP status of an answer, or what came instead of one."""
    headers = {} if server.key is None else {"authorization": f"Bearer {server.key}"}
    try:
        async with (
            asyncio.timeout(deadline_s),
            http.stream("GET", server.url + path, headers=headers, timeout=deadline_s) as answer,
        ):
            read = 0
            async for piece in answer.aiter_raw():
                read += len(piece)
                if read > _ANSWER_LIMIT:
                    break
    except (TimeoutError, httpx2.TimeoutException):
        return f"no answer within {deadline_s:g} s"
    except httpx2.HTTPError as error:
        return f"the connection failed ({error or type(error).__name__})"
    return answer.status_code


def _write(path: Path, text: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{now} {text}\n")
