"""The states of a model's engine and every way between them, as one table.

The diagram in `docs/explanation/switching.md` is drawn from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where the engine of a model is on its way."""

    STOPPED = "stopped"
    STARTING = "starting"
    AWAKE = "awake"
    DRAINING = "draining"
    STOPPING = "stopping"
    ASLEEP = "asleep"
    FAILED = "failed"


class Trigger(StrEnum):
    """What moves an engine from one state to the next."""

    START = "start"
    ADOPT = "adopt"
    READY = "ready"
    DRAIN = "drain"
    KEEP = "keep"
    STOP = "stop"
    STOPPED = "stopped"
    SLEPT = "slept"
    BROKE = "broke"


TRANSITIONS: Final[Mapping[tuple[State, Trigger], State]] = MappingProxyType(
    {
        (State.STOPPED, Trigger.START): State.STARTING,
        (State.STOPPED, Trigger.ADOPT): State.AWAKE,
        (State.STOPPED, Trigger.STOP): State.STOPPING,
        (State.FAILED, Trigger.START): State.STARTING,
        (State.STARTING, Trigger.READY): State.AWAKE,
        (State.STARTING, Trigger.STOP): State.STOPPING,
        (State.STARTING, Trigger.SLEPT): State.ASLEEP,
        (State.STARTING, Trigger.BROKE): State.FAILED,
        (State.AWAKE, Trigger.DRAIN): State.DRAINING,
        (State.AWAKE, Trigger.STOP): State.STOPPING,
        (State.AWAKE, Trigger.BROKE): State.FAILED,
        (State.DRAINING, Trigger.KEEP): State.AWAKE,
        (State.DRAINING, Trigger.STOP): State.STOPPING,
        (State.DRAINING, Trigger.BROKE): State.FAILED,
        (State.STOPPING, Trigger.STOPPED): State.STOPPED,
        (State.STOPPING, Trigger.SLEPT): State.ASLEEP,
        (State.ASLEEP, Trigger.START): State.STARTING,
        (State.ASLEEP, Trigger.STOP): State.STOPPING,
        (State.ASLEEP, Trigger.BROKE): State.FAILED,
        (State.STOPPING, Trigger.BROKE): State.FAILED,
    }
)

AT_REST: Final = frozenset({State.STOPPED, State.FAILED})
"""States in which a model has no engine and takes nothing of its devices."""

DOWN: Final = AT_REST | {State.ASLEEP}
"""States out of which a model may be brought up; none of them excludes another model."""

SERVING: Final = frozenset({State.AWAKE, State.DRAINING})
"""States in which an engine may be working on requests."""


class IllegalTransition(Exception):
    """A defect: the table has no such way."""


def next_state(state: State, trigger: Trigger) -> State:
    """Return the state after `trigger`.

    Raises:
        IllegalTransition: the table has no such way.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(f"no way from {state!r} by {trigger!r}") from None


def mermaid() -> str:
    """Draw the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> stopped"]
    lines += [f"    {old} --> {new}: {why}" for (old, why), new in TRANSITIONS.items()]
    return "\n".join(lines) + "\n"
