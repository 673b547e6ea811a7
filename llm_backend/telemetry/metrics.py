"""Every metric series of the gateway, defined once.

All of them exist from the start, so that a rate sees the first failure; `vocabulary` has what their
labels can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import nan
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry

from llm_backend.telemetry.tally import About, Counts, Family, Gauges, Kind, Labels, Times
from llm_backend.telemetry.vocabulary import (
    CAUSES,
    END_REASONS,
    MEMORY_KINDS,
    OTHER,
    PLACES,
    RESIDENCIES,
    Vocabulary,
)

AnyFamily = TypeVar("AnyFamily", bound=Family)

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LONG: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


class Metrics:
    """The series, in a registry of their own.

    Args:
        words: What their labels can say.

    Attributes:
        families: All of them, in the order in which they are exported.
    """

    def __init__(self, words: Vocabulary) -> None:
        self.registry = CollectorRegistry()
        self.families: list[Family] = []
        self._define_requests(words)
        self._define_times(words)
        self._define_waiting(words)
        self._define_cache(words)
        self._define_switches(words)
        self._define_models(words)
        self._define_devices(words)
        self._define_engines(words)
        self._define_gateway(words)

    def _define_requests(self, words: Vocabulary) -> None:
        self.requests = self._counts(
            "llm_requests_total",
            "Requests on inference routes, by how they ended",
            ["route", "model", "key", "status", "cache"],
            words.requests(),
        )
        self.tokens = self._counts(
            "llm_tokens_total",
            "Tokens as the engines count them",
            ["model", "key", "direction"],
            words.models_with(words.keys, ("in", "out")),
        )
        self.refusals = self._counts(
            "llm_refusals_total",
            "Errors that the gateway answered, on any route, by their code",
            ["code"],
            ((code,) for code in dict.fromkeys([*words.codes, OTHER])),
        )
        self.departures = self._counts(
            "llm_departures_total",
            "Clients that left before they had their whole answer, by what they left",
            ["model", "stage"],
            words.models_with(PLACES),
        )
        self.joins = self._counts(
            "llm_single_flight_joins_total",
            "Requests that waited for the engine call of an equal one, instead of making their own",
            ["model"],
            words.each,
        )

    def _define_times(self, words: Vocabulary) -> None:
        self.request_seconds = self._times(
            "llm_request_duration_seconds",
            "From the last byte of a request to the last byte of its answer",
            words.each,
            _SECONDS,
        )
        self.first_token_seconds = self._times(
            "llm_time_to_first_token_seconds",
            "From the lease to the first piece of a stream that has output",
            words.each,
            _SECONDS,
        )
        self.per_token_seconds = self._times(
            "llm_time_per_output_token_seconds",
            "From the first output of a stream to its end, for each further token",
            words.each,
            _SHORT,
        )
        self.overhead_seconds = self._times(
            "llm_gateway_overhead_seconds",
            "Duration of a request that an engine answered, less its wait and the engine's time",
            words.each,
            _OVERHEAD,
        )

    def _define_waiting(self, words: Vocabulary) -> None:
        self.in_flight = self._gauges(
            "llm_requests_in_flight", "Requests that have a lease", ["model"], words.each
        )
        self.waiting = self._gauges(
            "llm_requests_waiting", "Requests in line for a lease", ["model"], words.each
        )
        self.wait_seconds = self._times(
            "llm_queue_wait_seconds",
            "From asking for a lease to having it, by what was waited for",
            words.models_with(CAUSES),
            _LONG,
            "cause",
        )

    def _define_cache(self, words: Vocabulary) -> None:
        tiers = [("memory",), ("redis",)]
        self.cache_bytes = self._gauges(
            "llm_cache_bytes", "Size of the answers that are kept; NaN where unknown", ["tier"]
        )
        self.cache_bytes.declare(tiers, nan)
        self.cache_entries = self._gauges(
            "llm_cache_entries", "Answers that are kept; NaN where unknown", ["tier"]
        )
        self.cache_entries.declare(tiers, nan)
        self.cache_errors = self._gauges(
            "llm_cache_errors_total",
            "Operations that Redis failed at",
            ["operation"],
            [("get",), ("set",)],
            kind="counter",
        )
        self.cache_breaker = self._gauges(
            "llm_cache_breaker_open",
            "1 while Redis is left alone because it failed several times in a row",
            [],
            [()],
        )
        self.saved_seconds = self._counts(
            "llm_switch_saved_seconds_total",
            "What bringing the model up usually takes, for each cache hit while it was not awake",
            ["model"],
            words.each,
        )

    def _define_switches(self, words: Vocabulary) -> None:
        self.switches = self._counts(
            "llm_switches_total",
            "Switches that are over",
            ["from", "to", "rung", "outcome"],
            words.switches(),
        )
        self.switch_seconds = self._times(
            "llm_switch_duration_seconds",
            "From the moment that the old model began to leave until the new one was awake",
            words.ways_up(),
            _LONG,
            "rung",
        )
        self.stage_seconds = self._times(
            "llm_switch_stage_duration_seconds",
            "How long the stages of switches take; start and adopt hold other stages",
            words.all_stages(),
            _LONG,
            "stage",
        )
        self.switch_estimate = self._gauges(
            "llm_switch_estimate_seconds",
            "What was estimated when the last switch to the model began; NaN without an estimate",
            ["model"],
        )
        self.switch_estimate.declare(words.each, nan)
        self.switch_actual = self._gauges(
            "llm_switch_actual_seconds",
            "What the last switch to the model took; NaN before the first",
            ["model"],
        )
        self.switch_actual.declare(words.each, nan)
        self.switch_running = self._gauges(
            "llm_switch_in_progress_seconds",
            "For how long a switch to the model has been under way; 0 while none is",
            ["model"],
            words.each,
        )

    def _define_models(self, words: Vocabulary) -> None:
        self.awake = self._gauges(
            "llm_model_awake",
            "1 while the model is awake and takes requests",
            ["model"],
            words.each,
        )
        self.residency = self._gauges(
            "llm_model_residency",
            "1 for where the weights of the model are now, else 0",
            ["model", "residency"],
            words.models_with(RESIDENCIES),
        )
        self.state = self._gauges(
            "llm_model_state",
            "1 for the state that the model is in, else 0",
            ["model", "state"],
            words.models_with(words.states),
        )
        self.moves = self._counts(
            "llm_model_state_changes_total",
            "Times that the model came into a state",
            ["model", "state"],
            words.models_with(words.states),
        )

    def _define_devices(self, words: Vocabulary) -> None:
        devices = [(device,) for device in words.devices]
        self.engines_awake = self._gauges(
            "llm_engines_awake", "Engines that are awake on the device", ["device"], devices
        )
        self.device_memory = self._gauges(
            "llm_device_memory_bytes",
            "Memory of the device; foreign is what programs other than engines of this gateway "
            "hold. NaN where unknown",
            ["device", "kind"],
        )
        self.device_memory.declare(product(words.devices, MEMORY_KINDS), nan)
        self.engine_memory = self._gauges(
            "llm_engine_memory_bytes",
            "What the catalog reserves for the model in its residency now",
            ["device", "model"],
            ((device, model.name) for model in words.models for device in model.devices),
        )
        self.device_leases = self._gauges(
            "llm_device_leases",
            "Leases by which other programs have memory of the device",
            ["device"],
            devices,
        )

    def _define_engines(self, words: Vocabulary) -> None:
        self.restarts = self._counts(
            "llm_engine_restarts_total",
            "Engines started in place of one that did not end by the gateway's will, by its end",
            ["model", "reason"],
            words.models_with(END_REASONS),
        )
        self.sleep_failures = self._counts(
            "llm_sleep_failures_total",
            "Times that an engine did not fall asleep or wake up as it should",
            ["model", "step", "reason"],
            words.sleep_failures(),
        )

    def _define_gateway(self, words: Vocabulary) -> None:
        self.listeners = self._gauges(
            "llm_event_listeners", "Clients that follow what happens on /events", [], [()]
        )
        build = self._gauges("llm_build_info", "Always 1", ["version", "setup"])
        build.declare([words.build], 1.0)

    def _counts(
        self, name: str, text: str, labels: Sequence[str], series: Iterable[Labels]
    ) -> Counts:
        return self._with(Counts(About(name, "counter", text, labels), self.registry), series)

    def _times(
        self,
        name: str,
        text: str,
        series: Iterable[Labels],
        bounds: Sequence[float],
        *more: str,
    ) -> Times:
        about = About(name, "histogram", text, ["model", *more])
        return self._with(Times(about, self.registry, bounds), series)

    def _gauges(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        series: Iterable[Labels] = (),
        kind: Kind = "gauge",
    ) -> Gauges:
        return self._with(Gauges(About(name, kind, text, labels), self.registry), series)

    def _with(self, family: AnyFamily, series: Iterable[Labels]) -> AnyFamily:
        family.declare(series)
        self.families.append(family)
        return family

    def refuse(self, code: str) -> None:
        """Count an error that the gateway answered."""
        series = (code,)
        self.refusals.add(series if series in self.refusals else (OTHER,))

    def render(self) -> bytes:
        """Return all series in Prometheus text format; asks devices, so it may block."""
        return "".join([family.text() for family in self.families]).encode()
