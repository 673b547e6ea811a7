"""What the scheduler is told (events) and what it answers (effects). Plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llm_backend.errors import LLMBackendError
from llm_backend.switching.residency import Rung
from llm_backend.switching.states import State

Ticket = int
"""Names one request that waits for a lease, or one operator who waits for a switch."""

HeldUp = Literal["none", "switch", "engine_busy", "lease"]
"""What a request waited for: nothing, its model to come up, a seat on the engine that was awake,
or its model to come up because a device lease had driven it away."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the scheduler knows of a model.

    Attributes:
        model: The catalog id.
        group: Exclusivity group.
        concurrency: Leases that may be out at once.
        mib: Reservation while awake, by device.
        pinned: Whether it stays awake, whatever requests for others want.
        idle_ttl_s: Idle for so long, it is unloaded; None keeps it.
        rungs: Reservation while asleep, by level of sleep and device; empty where it may not sleep.
        rung_by_time: Whether measured times choose the level, or the stop; else the lightest.
    """

    model: str
    group: str
    concurrency: int
    mib: Mapping[str, int] = field(default_factory=dict)
    pinned: bool = False
    idle_ttl_s: float | None = None
    rungs: Mapping[Rung, Mapping[str, int]] = field(default_factory=dict)
    rung_by_time: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide.

    Attributes:
        queue_limit: Requests that may wait, over all models.
        queue_reserve: So many of these places are for keys that have no more than them (`fair`).
        mode: In `manual`, only an operator switches.
        drain_s: Longest wait for running requests before a switch.
        unwanted_load: What becomes of a load that nobody waits for any more.
        restore_previous: Whether a failed operator switch brings back the model before it.
        capacity: MiB that may be reserved, by device; a device not named is not limited.
        policy: Who goes next, and how long the awake model is kept; see `fifo` and `fair`.
        max_wait_s: How long models may be kept awake, in all, while an interactive request waits
            for another one (`fair`).
        batch_max_wait_s: After this long, a batch request counts as an interactive one (`fair`).
        quantum: How long a turn of a model is, as a share of a switch there and back (`fair`).
        linger: How long an idle model is kept in its turn, as a share of the same (`fair`).
        batch_idle: How long the device is idle before a batch request starts its model, as a
            multiple of the same (`fair`).
    """

    queue_limit: int = 512
    queue_reserve: int = 0
    mode: Literal["auto", "manual"] = "auto"
    drain_s: float = 300.0
    unwanted_load: Literal["finish", "cancel"] = "finish"
    restore_previous: bool = False
    capacity: Mapping[str, int] = field(default_factory=dict)
    policy: Literal["fifo", "fair"] = "fair"
    max_wait_s: float = 60.0
    batch_max_wait_s: float = 3600.0
    quantum: float = 0.5
    linger: float = 0.06
    batch_idle: float = 3.0


@dataclass(frozen=True, slots=True)
class DeviceLease:
    """Memory of a device that a program other than an engine has for a time.

    Attributes:
        ident: Names it.
        device: Its name in the catalog.
        mib: How much; None for all of it.
        reason: What it is for, for people.
        until: When it ends, on the clock of the events.
    """

    ident: str
    device: str
    mib: int | None
    reason: str
    until: float


# Events


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request asks for a lease on a model.

    Attributes:
        ticket: Names it.
        model: The catalog id.
        key: The name of the API key that it came with.
        batch: Whether it may wait until its model is awake anyway, or the device idle.
        may_switch: Whether it may wait for its model to be made awake; else it is refused as
            soon as the model is not.
    """

    ticket: Ticket
    model: str
    key: str = ""
    batch: bool = False
    may_switch: bool = True


@dataclass(frozen=True, slots=True)
class Left:
    """Whoever held this ticket waits no longer."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Finished:
    """A lease on a model came back."""

    model: str


@dataclass(frozen=True, slots=True)
class SwitchAsked:
    """An operator wants a model awake."""

    ticket: Ticket
    model: str


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """An operator wants a model's engine gone."""

    ticket: Ticket
    model: str


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """Somebody wants memory of a device; answer with `Reached` once no engine is in its place."""

    ticket: Ticket
    lease: DeviceLease


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """A device lease was given back, or its time is over."""

    ident: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """A healthy engine of an earlier gateway was found."""

    model: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine can serve.

    Attributes:
        model: The catalog id.
        rung_lost: Whether it was to be woken, that failed, and it was started anew.
    """

    model: str
    rung_lost: bool = False


@dataclass(frozen=True, slots=True)
class Broke:
    """The engine could not be brought up, or ended by itself. Nothing of it is left.

    Each engine's end is told once: by `Broke`, or after a `Stop` by `Stopped`. What else comes
    between `Stop` and `Stopped` crossed it and is passed over.
    """

    model: str
    error: LLMBackendError


@dataclass(frozen=True, slots=True)
class Hung:
    """The engine runs and does not answer."""

    model: str
    error: LLMBackendError


@dataclass(frozen=True, slots=True)
class Stopped:
    """The engine's end is proven; after a `Sleep`, because it did not fall asleep."""

    model: str


@dataclass(frozen=True, slots=True)
class Slept:
    """The engine sleeps, and has given the memory back."""

    model: str


@dataclass(frozen=True, slots=True)
class Unwoken:
    """The engine sleeps on: what it needs to be awake is not free on its device."""

    model: str
    error: LLMBackendError


@dataclass(frozen=True, slots=True)
class Timer:
    """A time that was asked for has come; a moment early does no harm."""


EngineEvent = Adopted | Ready | Broke | Hung | Stopped | Slept | Unwoken

Event = (
    Arrived
    | Left
    | Finished
    | SwitchAsked
    | UnloadAsked
    | LeaseTaken
    | LeaseGiven
    | EngineEvent
    | Timer
)

# Effects


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket's request may use the engine now. One lease is out."""

    ticket: Ticket
    model: str


@dataclass(frozen=True, slots=True)
class Reached:
    """What the operator of this ticket wanted is so."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket's wait ends in an error."""

    ticket: Ticket
    error: LLMBackendError


@dataclass(frozen=True, slots=True)
class Want:
    """From now on this is the model of the group to have; what a restart must reach."""

    group: str
    model: str | None


@dataclass(frozen=True, slots=True)
class Start:
    """Bring the engine up, or wake it; answer with `Ready`, `Broke` or `Unwoken`."""

    model: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Break off what the engine still works on; every lease learns why."""

    model: str
    error: LLMBackendError


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine; answer with `Stopped` once its end is proven."""

    model: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the engine to sleep; answer with `Slept`, or end it and answer with `Stopped`."""

    model: str
    rung: Rung


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `Timer` at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class Moved:
    """The model came into another state; for those who watch."""

    model: str
    previous: State
    state: State


Effect = Grant | Reached | Refuse | Want | Start | Cut | Stop | Sleep | SetTimer | Moved
