"""What happened on the devices lately, in bounded lists, for `GET /api/v1/history`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from llm_backend.gateway.chronicle import Chronicle, PastSwitch
from llm_backend.switching.feed import Notice
from llm_backend.switching.states import State

HELD_KEPT: Final = 400
"""Stretches that are kept; a switch there and back makes about ten."""

SWITCHES_KEPT: Final = 100

_LEASE_STATES: Final = {"taken": "leasing", "ready": "leased"}

JSON = dict[str, Any]


@dataclass(slots=True)
class Stretch:
    """Something was in one state for a time.

    Attributes:
        kind: `model`, or `lease` for a program that is not an engine.
        name: The model's id, or what the lease is for.
        devices: Where.
        state: Which.
        began: When, on the clock of the timeline.
        ended: When it was over; None while it holds.
    """

    kind: str
    name: str
    devices: Sequence[str]
    state: str
    began: float
    ended: float | None = None


class Timeline:
    """Listens to the feed.

    Args:
        devices: The devices of each model.
        clock: Monotonic, in seconds.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        devices: Mapping[str, Sequence[str]],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._devices = devices
        self._clock = clock
        self._began = clock()
        self._past: deque[Stretch] = deque(maxlen=HELD_KEPT)
        self._held: dict[str, Stretch] = {}
        self._switches: deque[PastSwitch] = deque(maxlen=SWITCHES_KEPT)
        self._chronicle = Chronicle(self._switches.append, clock, wall)

    def __call__(self, notice: Notice) -> None:
        """Take one notice."""
        self._chronicle(notice)
        data = notice.data
        if notice.kind == "state":
            model = data["model"]
            state = None if data["state"] == State.STOPPED else data["state"]
            self._enter(f"model {model}", state, "model", model, self._devices[model])
        elif notice.kind == "lease":
            state = _LEASE_STATES.get(data["state"])
            self._enter(f"lease {data['id']}", state, "lease", data["reason"], (data["device"],))

    def _enter(
        self, key: str, state: str | None, kind: str, name: str, devices: Sequence[str]
    ) -> None:
        now = self._clock()
        before = self._held.pop(key, None)
        if before is not None:
            before.ended = now
            self._past.append(before)
        if state is not None:
            self._held[key] = Stretch(kind, name, devices, state, now)

    def describe(self) -> JSON:
        """Return what `GET /api/v1/history` shows: the oldest first."""
        now = self._clock()
        stretches = sorted(itertools.chain(self._past, self._held.values()), key=lambda s: s.began)
        return {
            "covers_s": round(now - self._began, 3),
            "held": [_stretch(stretch, now) for stretch in stretches],
            "switches": [_switch(switch) for switch in self._switches],
        }


def _stretch(stretch: Stretch, now: float) -> JSON:
    ended = stretch.ended
    return {
        "kind": stretch.kind,
        "name": stretch.name,
        "devices": list(stretch.devices),
        "state": stretch.state,
        "began_s_ago": round(now - stretch.began, 3),
        "ended_s_ago": None if ended is None else round(now - ended, 3),
    }


def _switch(switch: PastSwitch) -> JSON:
    began = datetime.fromtimestamp(switch.began_at, UTC)
    return {
        "from": switch.from_,
        "to": switch.to,
        "rung": switch.rung,
        "outcome": switch.outcome,
        "began_at": began.isoformat(timespec="milliseconds"),
        "seconds": switch.seconds,
        "estimate_s": switch.estimate_s,
        "stages": dict(switch.stages),
    }
