"""Every metric series of the gateway, defined once.

Labels hold names of the catalog, of the route table and of the configured keys, or `other`:
nothing that a client sends can add a series.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llm_backend.telemetry.tally import Counts, Times

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STATUSES = ("2xx", "4xx", "5xx", "gone")
OTHER = "other"


class Metrics:
    """The series, in a registry of their own.

    Args:
        models: Ids of the catalog.
        routes: Paths of the inference routes.
    """

    def __init__(self, models: Iterable[str], routes: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._define_requests()
        self._define_switches()
        self._create(list(models), list(routes))

    def _define_requests(self) -> None:
        self.requests = Counts(
            "llm_requests",
            "Requests on inference routes, by how they ended",
            ["route", "model", "status"],
            self.registry,
        )
        self.request_seconds = self._times(
            "llm_request_duration_seconds",
            "From the last byte of the request to the last byte of the answer",
        )
        self.first_byte_seconds = self._times(
            "llm_time_to_first_byte_seconds",
            "From the lease to the first byte of the engine's answer",
        )
        self.wait_seconds = self._times(
            "llm_queue_wait_seconds", "From asking for a lease to having it"
        )
        self.tokens = Counts(
            "llm_tokens",
            "Tokens as the engines count them",
            ["model", "direction"],
            self.registry,
        )
        self.cache = Counts(
            "llm_cache_requests", "What the response cache did", ["result"], self.registry
        )

    def _times(self, name: str, text: str) -> Times:
        return Times(name, text, ["model"], SECONDS, self.registry)

    def _define_switches(self) -> None:
        self.in_flight = Gauge(
            "llm_requests_in_flight", "Leases out", ["model"], registry=self.registry
        )
        self.waiting = Gauge(
            "llm_requests_waiting", "Requests in line", ["model"], registry=self.registry
        )
        self.awake = Gauge(
            "llm_model_awake",
            "1 while the model's engine is awake",
            ["model"],
            registry=self.registry,
        )
        self.device_free = Gauge(
            "llm_device_free_mib", "Memory that nobody holds", ["device"], registry=self.registry
        )
        self.device_foreign = Gauge(
            "llm_device_foreign_mib",
            "Memory held by programs that are not engines of this gateway; NaN where unknown",
            ["device"],
            registry=self.registry,
        )
        self.moves = Counter(
            "llm_model_state_changes",
            "Times that the model came into a state",
            ["model", "state"],
            registry=self.registry,
        )
        self.rung_failures = Counter(
            "llm_sleep_failures",
            "Times that an engine did not fall asleep or wake up as it should",
            ["model", "step", "reason"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "llm_switch_stage_duration_seconds",
            "How long the stages of a switch take",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def _create(self, models: list[str], routes: list[str]) -> None:
        # All series exist from the start, so that a rate sees the first failure.
        self.requests.declare(product(routes, [*models, OTHER], STATUSES))
        self.tokens.declare(product(models, ("in", "out")))
        self.cache.declare((result,) for result in ("hit", "miss", "bypass"))
        for times in (self.request_seconds, self.first_byte_seconds, self.wait_seconds):
            times.declare((model,) for model in models)
        for gauge, model in product((self.in_flight, self.waiting, self.awake), models):
            gauge.labels(model)

    def render(self) -> bytes:
        """Return all series in Prometheus text format."""
        return generate_latest(self.registry)
