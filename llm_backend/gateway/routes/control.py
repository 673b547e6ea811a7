"""What operators do: load, unload, look, follow, read logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from llm_backend.engines.launch_options import LaunchOptions
from llm_backend.errors import InvalidRequest, ModelNotFound
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.report import model_path
from llm_backend.gateway.services import AdminKey, InferKey, Service, Services
from llm_backend.gateway.sse import comment
from llm_backend.wire import encode

HEARTBEAT_S = 10.0

router = APIRouter(tags=["control"])


class LoadRequest(BaseModel):
    """Which model to make awake, by id, alias, or where its weights come from, and how.

    The options hold until the engine stops; without any, it is started as the catalog says, or
    left as it is.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=200)] = None
    model_path: Annotated[str | None, Field(max_length=1000)] = None
    wait: bool = True
    max_model_len: Annotated[int | None, Field(ge=128, le=1_048_576, strict=True)] = None
    gpu_memory_utilization: Annotated[float | None, Field(gt=0, le=1, strict=True)] = None
    quantization: Annotated[str | None, Field(min_length=1, max_length=60)] = None
    tensor_parallel_size: Annotated[int | None, Field(ge=1, le=64, strict=True)] = None

    @property
    def options(self) -> LaunchOptions:
        """What is to differ from the catalog."""
        return LaunchOptions(
            self.max_model_len,
            self.gpu_memory_utilization,
            self.quantization,
            self.tensor_parallel_size,
        )


class UnloadRequest(BaseModel):
    """Which model to unload; without one, all of them."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=200)] = None


class ClearRequest(BaseModel):
    """Of which model to forget the answers; without one, of all."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=200)] = None


@router.post("/api/v1/inference/load")
async def load(service: Service, _: AdminKey, request: LoadRequest) -> JSONResponse:
    """Make a model awake; answers when it is, or at once with `"wait": false`."""
    model, options = _wanted(service.fleet, request), request.options
    switcher, relaunching = service.switcher, service.switcher.relaunching
    await (relaunching.check(model, options) if options else switcher.check(model))
    if not request.wait:
        if options:
            relaunching.begin(model, options)
        else:
            switcher.begin_switch(model)
        state = switcher.entries[model].state.value
        return JSONResponse({"model": model, "state": state, "seconds": 0.0}, status_code=202)
    began = time.monotonic()
    await (relaunching.switch(model, options) if options else switcher.switch(model))
    seconds = round(time.monotonic() - began, 3)
    return JSONResponse({"model": model, "state": "awake", "seconds": seconds})


def _wanted(fleet: Fleet, request: LoadRequest) -> str:
    if (request.model is None) == (request.model_path is None):
        raise InvalidRequest("Give either model or model_path.", param="model")
    if request.model is not None:
        return fleet.find(request.model).id
    for spec in fleet.catalog:
        if model_path(spec) == request.model_path:
            return fleet.find(spec.id).id
    paths = ", ".join(filter(None, map(model_path, fleet.catalog)))
    raise ModelNotFound(
        f"No model of the catalog has the path {request.model_path!r}.",
        hint=f"Paths: {paths}." if paths else 'No model has one: name it by its id in "model".',
        param="model_path",
    )


@router.post("/api/v1/inference/unload")
async def unload(service: Service, _: AdminKey, request: UnloadRequest) -> JSONResponse:
    """Drain and end one engine, or all."""
    fleet = service.fleet
    models = fleet.available() if request.model is None else [fleet.find(request.model).id]
    return JSONResponse({"unloaded": await service.switcher.unload(models)})


@router.post("/api/v1/cache/clear")
async def clear_cache(service: Service, _: AdminKey, request: ClearRequest) -> JSONResponse:
    """Forget answers."""
    model = None if request.model is None else service.fleet.find(request.model).id
    return JSONResponse({"cleared": await service.cache.clear(model)})


@router.get("/status")
async def status(service: Service, _: InferKey) -> JSONResponse:
    """Everything about models, queue and the running switch."""
    return JSONResponse(service.reporter.status())


@router.get("/events")
async def events(service: Service, _: InferKey) -> StreamingResponse:
    """State changes, steps and load progress as they happen, as server-sent events."""
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(service), media_type="text/event-stream", headers=headers)


async def _events(service: Services) -> AsyncIterator[bytes]:
    with service.switcher.feed.subscribed() as subscription:
        yield _event("snapshot", service.reporter.status())
        while not service.stopping.is_set():
            notice = await subscription.next(HEARTBEAT_S)
            if notice is None:
                yield comment("still here")
            else:
                yield _event(notice.kind, notice.data)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(data) + b"\n\n"


@router.get("/logs/{model:path}", response_class=PlainTextResponse)
async def logs(
    service: Service,
    _: AdminKey,
    model: str,
    lines: Annotated[int, Query(ge=0, le=10_000)] = 100,
    follow: bool = False,  # noqa: FBT001, FBT002  # FastAPI calls it by name
) -> Response:
    """The last log lines of a model's engine, and new ones as they come."""
    spec = service.fleet.find(model)
    runtime = service.switcher.keeper(spec.id).launch.runtime
    if follow:
        log = _until(service.stopping, runtime.follow_log(spec.id, lines))
        return StreamingResponse(log, media_type="text/plain")
    tail = await runtime.log_tail(spec.id, lines)
    return PlainTextResponse("".join(f"{line}\n" for line in tail))


async def _until(stop: asyncio.Event, log: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """Yield the lines of a log as they come, until `stop` is set."""
    stopped = asyncio.create_task(stop.wait())
    try:
        async with aclosing(log):  # type: ignore[type-var]  # an async generator at run time
            while (line := await _next(log, stopped)) is not None:
                yield f"{line}\n"
    finally:
        stopped.cancel()


async def _next(log: AsyncIterator[str], stopped: asyncio.Task[bool]) -> str | None:
    line = asyncio.ensure_future(anext(log, None))
    try:
        await asyncio.wait({line, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        line.cancel()
        await asyncio.wait({line})
    return None if line.cancelled() else line.result()
