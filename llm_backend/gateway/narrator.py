"""Turns what happens to the engines into log lines and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import structlog

from llm_backend.switching.entry import Entry
from llm_backend.switching.feed import Notice
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.residency import WAYS_DOWN, WAYS_UP
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher
from llm_backend.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)


class Narrator:
    """Listens to the feed, and shows the scheduler's entries as gauges."""

    def __init__(self, metrics: Metrics, switcher: Switcher) -> None:
        self._metrics = metrics
        for model, entry in switcher.entries.items():
            self._show(model, entry)

        for device in {d for e in switcher.entries.values() for d in e.needs.mib}:
            self._watch(device, switcher.memory)

    def _watch(self, device: str, memory: MemoryGate) -> None:
        def free_mib() -> float:
            account = memory.account(device)
            return nan if account is None else account.reading.free_mib

        def foreign_mib() -> float:
            account = memory.account(device)
            known = None if account is None else account.foreign_mib
            return nan if known is None else known

        self._metrics.device_free.labels(device).set_function(free_mib)
        self._metrics.device_foreign.labels(device).set_function(foreign_mib)

    def _show(self, model: str, entry: Entry) -> None:
        metrics = self._metrics
        metrics.awake.labels(model).set_function(lambda: entry.state is State.AWAKE)
        metrics.in_flight.labels(model).set_function(lambda: entry.leases)
        metrics.waiting.labels(model).set_function(lambda: len(entry.waiting))
        for state in State:  # from the start, so that a rate sees the first failure
            metrics.moves.labels(model, state.value)

    def __call__(self, notice: Notice) -> None:
        """Take one notice."""
        data = notice.data
        if notice.kind == "state":
            self._metrics.moves.labels(data["model"], data["state"]).inc()
            write = log.error if data["state"] == State.FAILED else log.info
            write("model_state", **data)
        elif notice.kind == "lease":
            log.info("device_lease", **data)
        elif notice.kind == "step":
            stage, _, done = data["step"].partition("_done")
            if data["step"].endswith("_done") and not done:
                self._metrics.stage_seconds.labels(data["model"], stage).observe(data["elapsed_s"])
            self._count_failure(data)
            log.debug("switch_step", **data)

    def _count_failure(self, data: Mapping[str, str]) -> None:
        step, _, reason = data["step"].rpartition("_")
        if step in {*WAYS_DOWN.values(), *WAYS_UP.values()} and reason in {"failed", "canary"}:
            self._metrics.rung_failures.labels(data["model"], step, reason).inc()
