"""The model list, in the shape of the OpenAI API."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llm_backend.gateway.services import InferKey, Service

router = APIRouter(tags=["models"])


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(service: Service, _: InferKey) -> JSONResponse:
    """All models that this set-up can run."""
    return JSONResponse(service.reporter.model_list())


@router.get("/v1/models/{model:path}")
@router.get("/models/{model:path}", include_in_schema=False)
async def model(service: Service, _: InferKey, model: str) -> JSONResponse:
    """One model, by id or alias."""
    return JSONResponse(service.reporter.model(service.fleet.find(model)))
