"""Models in one Python process, without a gateway: the same core, asked directly."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2
import structlog

from llm_backend.client.chat import ChatClient
from llm_backend.client.failures import HTTPAnswer
from llm_backend.client.retries import Retries
from llm_backend.client.transport import Request, Transport
from llm_backend.config import check, load_catalog, load_settings, refuse
from llm_backend.config.catalog import Capability, ModelSpec
from llm_backend.config.root import find_root
from llm_backend.config.settings import Settings
from llm_backend.core import Core, build_core, lock_dir
from llm_backend.engines.answers import error_from
from llm_backend.errors import (
    ConfigError,
    ConnectionFailed,
    EngineGone,
    EngineTimeout,
    InvalidRequest,
    LLMBackendError,
)
from llm_backend.gateway.calls import missing_defaults
from llm_backend.gateway.fetch import Fetcher
from llm_backend.gateway.images import Images
from llm_backend.runtimes.locks import gateway_lock
from llm_backend.switching.feed import Notice
from llm_backend.switching.lease import Lease
from llm_backend.telemetry import logs
from llm_backend.wire import JSONObject, decode_object, encode, requested_model

CAUSE_S: Final = 3.0
"""How long to wait for the reason when an engine hangs up."""

_LEAST_S: Final = 1.0
"""An engine that was waited for gets at least so long for its answer."""

_TIMEOUT_HINT: Final = "InferenceService(timeout_s=…) sets this limit."

_WANTED_FILE: Final = "wanted-embedded.json"
"""A service takes over the engine that one before it left, and brings back none by itself."""

OnProgress = Callable[[str], None]
"""Told, in a line for people, how far a load is."""


class InferenceService(ChatClient):
    """The models of a catalog, inside this process.

    `chat`, `generate`, `stream`, `events`, `generate_structured` and `batch` are those of
    `LLMClient`. One model is awake at a time; asking for another one switches. Engines are
    processes of this machine; while a service is open, no gateway and no other service can be
    that shares its state directory.

    Example:
        async with InferenceService() as service:
            await service.load("smollm2")
            print(await service.generate("What is two and two?"))

    Args:
        catalog: The file that lists the models; by default that of the project (the checkout,
            the current directory or one above it), else the one that comes with the package.
        settings: Values by dotted key, such as `{"state_dir": "state"}`; they go before the
            environment and `gateway.yaml`.
        unload_on_exit: Whether leaving the block ends the engine. Else it goes on, and the next
            service takes it over.
        timeout_s: The longest that a call may take, in seconds, the wait for a model included. Of
            a stream: until it opens, and then between two signs of life.
    """

    def __init__(
        self,
        catalog: str | Path | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        unload_on_exit: bool = True,
        timeout_s: float = 600.0,
    ) -> None:
        self._catalog = None if catalog is None else Path(catalog)
        self._flags = dict(settings or {})
        self._unload_on_exit = unload_on_exit
        self._stack = AsyncExitStack()
        self._engines = _Engines()
        super().__init__(self._engines, timeout_s)

    async def __aenter__(self) -> Self:
        if self._engines.opened is not None:
            raise ConfigError("This InferenceService is open already.")
        async with AsyncExitStack() as stack:
            settings = await asyncio.to_thread(self._load_settings)
            self._engines.opened = await stack.enter_async_context(_open(settings))
            stack.callback(setattr, self._engines, "opened", None)
            if self._unload_on_exit:
                stack.push_async_callback(self.unload)
            stack.push_async_callback(self._break_off)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def models(self) -> list[str]:
        """The models that can run here."""
        return self._engines.core.fleet.available()

    @property
    def awake(self) -> str | None:
        """The awake model, the last used one where there are several; None where there is none."""
        return next(iter(self._engines.core.switcher.awake()), None)

    async def load(self, model: str | None = None, on_progress: OnProgress | None = None) -> str:
        """Make a model awake; return its id.

        Args:
            model: Id or alias; by default the catalog's default.
            on_progress: Told how far the load is.

        Raises:
            ModelNotFound: the catalog has no such model, or it cannot run here.
            EngineStartFailed: it could not be brought up; says why.
        """
        switcher, spec = self._engines.core.switcher, self._engines.choose(model)

        def hear(notice: Notice) -> None:
            if on_progress is not None and notice.kind == "progress":
                on_progress(str(notice.data["text"]))

        with switcher.feed.listening(hear):
            await switcher.check(spec.id)
            await switcher.switch(spec.id)
        return spec.id

    async def unload(self) -> list[str]:
        """End all engines, after the requests that they work on; return whose they were."""
        core = self._engines.core
        return await core.switcher.unload(core.fleet.available())

    def _load_settings(self) -> Settings:
        flags: dict[str, Any] = {"setup": "local", **self._flags}
        if self._catalog is None:
            return load_settings(find_root(os.environ, Path.cwd()), flags)
        path = self._catalog.expanduser().absolute()
        return load_settings(path.parent.parent, {**flags, "catalog": str(path)})


@dataclass(frozen=True, slots=True)
class _Opened:
    """What an open service works with."""

    core: Core
    images: Images
    queue_s: float


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[_Opened]:
    if not structlog.is_configured():  # else it is for the program to say what is logged
        logs.configure("warning", settings.logs.format)
    catalog = await asyncio.to_thread(load_catalog, settings.catalog)
    refuse(check(settings, catalog))
    async with AsyncExitStack() as stack:
        _take_lock(stack, settings)
        core = await stack.enter_async_context(build_core(settings, catalog, _WANTED_FILE))
        fetcher = Fetcher.within(settings.images)
        stack.push_async_callback(fetcher.close)
        await core.switcher.open()
        yield _Opened(core, Images(settings.images, fetcher), settings.limits.queue_timeout_s)


def _take_lock(stack: AsyncExitStack, settings: Settings) -> None:
    try:
        stack.enter_context(gateway_lock(lock_dir(settings)))
    except OSError as error:
        raise ConfigError(
            f"The state directory {settings.state_dir} cannot be used: {error}.",
            hint="state_dir says where it is.",
        ) from error


class _Engines:
    """Sends the requests of a client to engines, each under a lease.

    Attributes:
        opened: What it works with while the service is open.
    """

    def __init__(self) -> None:
        self.opened: _Opened | None = None

    @property
    def core(self) -> Core:
        return self._opened.core

    @property
    def _opened(self) -> _Opened:
        if self.opened is None:
            raise ConfigError("This InferenceService is not open.", hint="Use it in `async with`.")
        return self.opened

    def choose(self, name: str | None) -> ModelSpec:
        """Return the model of this name; without one the awake model, else the default.

        Raises:
            ModelNotFound: there is none, or it cannot run here.
            InvalidRequest: no model can.
        """
        name = name or next(iter([*self.core.switcher.awake(), self.core.fleet.default]))
        if name is None:
            raise InvalidRequest(
                "No model of the catalog can run here.", hint="See why: llm-backend doctor"
            )
        return self.core.fleet.find(name)

    async def call(self, request: Request) -> httpx2.Response:
        """Return the whole answer to a request."""
        async with self._granted(request) as (transport, asked):
            return await transport.call(asked)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[httpx2.Response]:
        """Yield an answer whose body is still to be read."""
        async with (
            self._granted(request) as (transport, asked),
            transport.open(asked) as response,
        ):
            yield response

    @asynccontextmanager
    async def _granted(self, request: Request) -> AsyncIterator[tuple[Transport, Request]]:
        body = decode_object(request.body or b"{}")
        spec = self.choose(requested_model(body))
        await self._check(spec, body, len(request.body or b""))
        with self.core.switcher.lease(spec.id) as lease:
            wait_s = min(self._opened.queue_s, request.timeout_s)
            engine = lease.engine or await lease.granted(wait_s)
            left_s = max(_LEAST_S, request.timeout_s - lease.waited_s)
            asked = {**body, **missing_defaults(spec.defaults, body), "model": engine.served_name}
            transport = Transport(engine.url, engine.key, Retries(0))
            try:
                yield transport, replace(request, body=encode(asked), timeout_s=left_s)
            except LLMBackendError as error:
                told = await _explained(error, lease)
                if told is None:
                    raise
                raise told from error

    async def _check(self, spec: ModelSpec, body: JSONObject, size: int) -> None:
        """Check that the model can do what is asked, and the pictures: engines fetch none."""
        fleet, images = self.core.fleet, self._opened.images
        media = await images.find(body, size, is_chat=True)
        for capability in (Capability.CHAT, *sorted(media.needs)):
            fleet.require(spec, capability)
        await images.prepare(media)


async def _explained(error: LLMBackendError, lease: Lease) -> LLMBackendError | None:
    """Return what is known beyond what the client saw: why the engine ended, what it means."""
    if isinstance(error, ConnectionFailed):
        if error.__cause__ is None:  # the deadline of the call
            return EngineTimeout(f"{lease.model} gave no answer in time.", hint=_TIMEOUT_HINT)
        cause = await lease.cause(CAUSE_S)
        gone = EngineGone(f"The engine of {lease.model} broke off.")
        return copy(cause) if cause is not None else gone
    answer = error.__cause__
    if isinstance(answer, HTTPAnswer) and answer.status >= 400:
        return error_from(answer.status, answer.body)
    return None
