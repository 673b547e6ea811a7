"""The switches that are over, put together from what the feed tells while they are under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llm_backend.switching.feed import Notice

WHOLES: Final = frozenset({"start", "adopt"})
"""Stages that hold other stages."""


@dataclass(frozen=True, slots=True)
class PastSwitch:
    """A switch that is over.

    Attributes:
        from_: The model that left for it; None where none had to.
        to: The model that came up, or was to.
        rung: What it came up from in the end: `start`, or a level of sleep as `asleep-1`.
        outcome: `ok`, `failed` or `cancelled`.
        began_at: When it began, in seconds since 1970.
        seconds: How long it took.
        estimate_s: How long it was to take when it began; None where nobody knew.
        stages: Seconds of each stage that was done, of either model.
    """

    from_: str | None
    to: str
    rung: str
    outcome: str
    began_at: float
    seconds: float
    estimate_s: float | None
    stages: Mapping[str, float]


@dataclass(slots=True)
class _Open:
    """A switch that is under way."""

    to: str
    began: float
    began_at: float
    wake_failed: bool = False
    stages: dict[str, float] = field(default_factory=dict)


class Chronicle:
    """Listens to the feed; leaves out what makes no model awake, as an unload.

    Args:
        tell: Is told of each switch once it is over.
        clock: Monotonic, in seconds.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        tell: Callable[[PastSwitch], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._wall = wall
        self._open: dict[str, _Open] = {}

    def running(self) -> dict[str, float]:
        """Return for how many seconds a switch has been under way, by the model that comes up."""
        now = self._clock()
        return {switch.to: now - switch.began for switch in list(self._open.values())}

    def __call__(self, notice: Notice) -> None:
        """Take one notice."""
        data = notice.data
        if notice.kind == "switch" and data["to"] is not None:
            if data["outcome"] is None:
                began = _Open(data["to"], self._clock(), self._wall())
                self._open[data["switch"]] = began
            elif switch := self._open.pop(data["switch"], None):
                self._tell(_past(switch, data))
        elif notice.kind == "step" and (switch := self._open.get(data.get("switch") or "")):
            _add_step(switch, data)


def _add_step(switch: _Open, data: Mapping[str, Any]) -> None:
    stage = data["step"].removesuffix("_done")
    if stage != data["step"] and stage not in WHOLES:
        switch.stages[stage] = switch.stages.get(stage, 0.0) + data["elapsed_s"]
    elif stage.startswith("wake_") and stage.endswith(("_failed", "_canary")):
        switch.wake_failed = True  # it is started instead


def _past(switch: _Open, data: Mapping[str, Any]) -> PastSwitch:
    return PastSwitch(
        from_=data["from"],
        to=switch.to,
        rung="start" if switch.wake_failed else data["rung"],
        outcome=data["outcome"],
        began_at=switch.began_at,
        seconds=data["elapsed_s"],
        estimate_s=data["estimate_s"],
        stages=switch.stages,
    )
