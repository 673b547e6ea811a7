"""What clients are told whom the scheduler refuses."""

from __future__ import annotations

from llm_backend.errors import (
    Conflict,
    DeviceBusy,
    EngineGone,
    ModelNotActive,
    Overloaded,
    ShuttingDown,
)
from llm_backend.switching.events import DeviceLease


def shutting_down() -> ShuttingDown:
    """Tell that the gateway ends."""
    return ShuttingDown("The gateway is shutting down.", retry_after_s=5)


def queue_full(waiting: int, wait_s: float) -> Overloaded:
    """Tell that the line is full, and in how many seconds it will have moved."""
    return Overloaded(
        f"{waiting} requests wait already; the queue holds no more.", retry_after_s=wait_s + 1
    )


def not_active(model: str) -> ModelNotActive:
    """Tell that only a person switches to this model."""
    return ModelNotActive(
        f"{model} is not awake and switching is manual.",
        hint=f"Switch first: bash scripts/switch_model.sh {model}",
        param="model",
    )


def not_awake(model: str) -> ModelNotActive:
    """Tell that a request that never switches came too late for this model."""
    return ModelNotActive(
        f"{model} is not awake any more, and this route never switches models.",
        hint=f"Switch first: bash scripts/switch_model.sh {model}",
        param="model",
    )


def pinned(model: str, by: str) -> ModelNotActive:
    """Tell that another model stays awake, whatever requests want."""
    return ModelNotActive(
        f"{model} has no room: {by} is pinned, and stays awake whatever requests want.",
        hint=f"Switch first: bash scripts/switch_model.sh {model}",
        param="model",
    )


def leased(model: str, lease: DeviceLease, now: float) -> DeviceBusy:
    """Tell that another program has the device, and for how long yet."""
    left_s = max(0.0, lease.until - now)
    return DeviceBusy(
        f"{model} has no room: {lease.device} is leased for {left_s:.0f} s more ({lease.reason}).",
        hint=f"Give it back: llm-backend lease give {lease.ident}",
        retry_after_s=left_s,
    )


def lease_over(ident: str) -> Conflict:
    """Tell that a device lease ended before the device was free."""
    return Conflict(f"The device lease {ident} ended before the device was free.")


def switched_away(model: str, drain_s: float) -> EngineGone:
    """Tell that a request was cut because its model had to go."""
    return EngineGone(
        f"{model} was switched away: the request was still running "
        f"{drain_s:g} s after the switch began.",
        hint="switching.drain_timeout_s sets this limit.",
    )
