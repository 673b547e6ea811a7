"""Device leases: an operator has a device free of engines for a time, for a game or a training."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from llm_backend.errors import InvalidRequest
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.report import describe_loan
from llm_backend.gateway.services import AdminKey, Service
from llm_backend.switching.lending import LONGEST_S, Wish

router = APIRouter(tags=["device"])


class LeaseRequest(BaseModel):
    """How much of which device to have, for how long and what for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ttl_s: float
    reason: Annotated[str, Field(max_length=200)]
    mib: int | None = None
    device: str | None = None
    wait: bool = True


@router.post("/api/v1/device/lease")
async def take(service: Service, _: AdminKey, request: LeaseRequest) -> JSONResponse:
    """Free a device of engines; answers when its memory is free, or at once without `wait`."""
    lending, wish = service.switcher.lending, _wish(service.fleet, request)
    if not request.wait:
        return JSONResponse(describe_loan(lending.begin(wish)), status_code=202)
    return JSONResponse(describe_loan(await lending.take(wish)))


@router.get("/api/v1/device/lease")
async def leases(service: Service, _: AdminKey) -> JSONResponse:
    """All device leases that hold now."""
    return JSONResponse({"leases": service.reporter.leases()})


@router.delete("/api/v1/device/lease/{ident}")
async def give(service: Service, _: AdminKey, ident: str) -> JSONResponse:
    """Give a device back before its time; the model that had to leave comes back."""
    service.switcher.lending.give(ident)
    return JSONResponse({"id": ident, "state": "given"})


def _wish(fleet: Fleet, request: LeaseRequest) -> Wish:
    if not (math.isfinite(request.ttl_s) and 0 < request.ttl_s <= LONGEST_S):
        raise _invalid("ttl_s", request.ttl_s, f"above 0 and at most {LONGEST_S:.0f} (seconds)")
    if request.mib is not None and request.mib < 1:
        raise _invalid("mib", request.mib, "at least 1 (MiB)")
    reason = request.reason.strip()
    if not reason:
        raise _invalid("reason", request.reason, "text that says what the device is for")
    return Wish(_device(fleet, request.device), request.mib, request.ttl_s, reason)


def _device(fleet: Fleet, name: str | None) -> str:
    """Return the device that is meant: the one named, or the only one it can be."""
    used = {d for m in fleet.available() for d in fleet.catalog.models[m].devices}
    gpus = {d for d in used if fleet.catalog.devices[d].kind == "cuda"}
    choices = sorted(gpus or used)
    if name is None and len(choices) == 1:
        return choices[0]
    known = sorted(fleet.catalog.devices)
    if name is None or name not in known:
        raise _invalid("device", name, f"one of the devices of the catalog: {', '.join(known)}")
    return name


def _invalid(field: str, value: Any, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {value!r} is not {wanted}.", param=field)
