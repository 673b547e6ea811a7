"""Who the gateway is and how it does."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from llm_backend.gateway.services import Service

router = APIRouter(tags=["health"])


@router.get("/")
async def info(service: Service) -> JSONResponse:
    """Name, version, set-up, and the model that is awake."""
    return JSONResponse(await service.reporter.info())


@router.get("/health")
async def health(service: Service) -> JSONResponse:
    """The state of gateway, cache, devices and models."""
    return JSONResponse(await service.reporter.health())


@router.get("/health/live")
async def live() -> JSONResponse:
    """Answers as long as the gateway runs."""
    return JSONResponse({"status": "ok"})


@router.get("/health/ready")
async def ready(service: Service) -> JSONResponse:
    """Answers 200 once requests are taken, 503 before and while shutting down."""
    if service.ready:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "not ready"}, status_code=503)


@router.get("/metrics", response_class=Response)
async def metrics(service: Service) -> Response:
    """All series in Prometheus text format."""
    text = await asyncio.to_thread(service.metrics.render)  # it reads the devices
    return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")


@router.get("/metrics/engines")
async def engines(service: Service) -> JSONResponse:
    """The engines that are awake and export metrics, as Prometheus discovers targets by HTTP."""
    return JSONResponse(service.reporter.scrape_targets())
