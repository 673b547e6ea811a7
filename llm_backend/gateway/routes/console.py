"""The web console, and the history that it draws."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse, Response

from llm_backend.gateway.assets import INDEX
from llm_backend.gateway.services import InferKey, Service

router = APIRouter(tags=["console"])

Known = Annotated[str | None, Header(alias="if-none-match")]


@router.api_route("/console", methods=["GET", "HEAD"], include_in_schema=False)
async def page(service: Service, known: Known = None) -> Response:
    """The page."""
    return service.assets.answer(INDEX, known)


@router.api_route("/console/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def asset(service: Service, name: str, known: Known = None) -> Response:
    """A file that the page loads."""
    return service.assets.answer(name, known)


@router.get("/api/v1/history")
async def history(service: Service, _: InferKey) -> JSONResponse:
    """Who held the devices, and the last switches."""
    return JSONResponse(service.timeline.describe())
