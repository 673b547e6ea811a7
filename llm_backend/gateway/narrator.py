"""Turns what happens to the engines into log lines and metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import nan
from typing import Any, Final

import structlog

from llm_backend.gateway.chronicle import Chronicle, PastSwitch
from llm_backend.gateway.restarts import Restarts
from llm_backend.switching.feed import Notice
from llm_backend.switching.residency import WAYS_DOWN, WAYS_UP
from llm_backend.switching.states import State
from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.vocabulary import NONE

log = structlog.get_logger(__name__)


class Narrator:
    """Listens to the feed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._restarts = Restarts()
        self._chronicle = Chronicle(self._count_switch, time.monotonic, time.time)
        metrics.switch_running.follow(
            lambda: {(model,): seconds for model, seconds in self._chronicle.running().items()}
        )

    def __call__(self, notice: Notice) -> None:
        """Take one notice."""
        data = notice.data
        self._chronicle(notice)
        reason = self._restarts.reason(notice)
        if reason is not None:
            self._metrics.restarts.add((data["model"], reason))
        if notice.kind == "state":
            self._metrics.moves.add((data["model"], data["state"]))
            write = log.error if data["state"] == State.FAILED else log.info
            write("model_state", **data)
        elif notice.kind == "lease":
            log.info("device_lease", **data)
        elif notice.kind == "step":
            self._count_step(data)
            # A line for each stage, once it is known how long it took.
            tell = log.info if data["step"].endswith("_done") else log.debug
            tell("switch_step", **data)
        elif notice.kind == "switch":
            self._note_estimate(data)
            log.info("switch_begun" if data["outcome"] is None else "switch_ended", **data)

    def _count_step(self, data: Mapping[str, Any]) -> None:
        step, _, how = data["step"].rpartition("_")
        if how == "done":
            self._metrics.stage_seconds.observe((data["model"], step), data["elapsed_s"])
        elif step in _RUNGS and how in {"failed", "canary"}:
            self._metrics.sleep_failures.add((data["model"], step, how))

    def _note_estimate(self, data: Mapping[str, Any]) -> None:
        if data["outcome"] is None and data["to"] is not None:
            known = data["estimate_s"]
            self._metrics.switch_estimate.set((data["to"],), nan if known is None else known)

    def _count_switch(self, switch: PastSwitch) -> None:
        metrics, to = self._metrics, (switch.to,)
        labels = (switch.from_ or NONE, switch.to, switch.rung, switch.outcome)
        metrics.switches.add(labels)
        if switch.outcome == "ok":
            metrics.switch_seconds.observe((switch.to, switch.rung), switch.seconds)
            metrics.switch_actual.set(to, switch.seconds)


_RUNGS: Final = frozenset({*WAYS_DOWN.values(), *WAYS_UP.values()})
