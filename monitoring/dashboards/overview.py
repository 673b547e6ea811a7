"""Is it well, what is awake, what waits."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import framed
from monitoring.dashboards.panels import (
    GOOD_AT_0,
    AnyPanel,
    bars,
    lines,
    names,
    stat,
    table,
    timeline,
)
from monitoring.dashboards.promql import KEY, MODEL, coded, grown, per_second, percentiles, select

RESIDENCIES = ("stopped", "asleep-2", "asleep-1", "awake")
COLOURS = {
    0: ("stopped", "rgba(128, 128, 128, 0.25)"),
    1: ("asleep-2", "dark-blue"),
    2: ("asleep-1", "light-blue"),
    3: ("awake", "green"),
}


def board() -> Dashboard:
    """Build it."""
    return framed(
        "overview",
        "overview",
        "Is it well, what is awake, what waits.",
        (
            ("Is it well?", _health()),
            ("What is awake?", _awake()),
            ("What waits?", _waits()),
            ("Answers", [*_requests(), *_speed()]),
        ),
    )


def _health() -> list[AnyPanel]:
    return [
        stat(
            "Gateway",
            "Whether Prometheus reaches the gateway.",
            'min(up{job="gateway"})',
            texts={0: ("down", "red"), 1: ("up", "green")},
            none="unknown",
        ),
        stat(
            "Alerts",
            "Alerts that fire now. Each has a page in docs/howto/alerts.",
            'count(ALERTS{alertstate="firing"}) or vector(0)',
            steps=GOOD_AT_0,
        ),
        stat(
            "Failed engines",
            "Models whose engine failed, and that nobody has asked for with success since.",
            'sum(llm_model_state{state="failed"})',
            steps=GOOD_AT_0,
        ),
        stat(
            "Failed requests",
            "Share of requests that ended with a status of 5xx, over five minutes.",
            "llm:requests_failed:ratio_rate5m",
            unit="percentunit",
            steps=((0.001, "orange"), (0.01, "red")),
            none="no requests",
        ),
        stat(
            "Requests",
            "Over five minutes.",
            "llm:requests:rate5m",
            unit="reqps",
        ),
        stat(
            "First token",
            "Of the slowest model: nineteen streams in twenty begin within this time of having "
            "their lease, over ten minutes.",
            "max(model:llm_time_to_first_token_seconds:p95_rate10m >= 0)",
            unit="s",
            steps=((2, "orange"), (10, "red")),
            none="no streams",
        ),
        table(
            "Alerts that fire",
            "What Prometheus would wake somebody for, and how grave it is.",
            'ALERTS{alertstate="firing"}',
            columns={"alertname": "Alert", "severity": "Severity", "model": "Model"},
            width=24,
            height=5,
        ),
    ]


def _awake() -> list[AnyPanel]:
    return [
        names(
            "Awake",
            "Models that are awake and take requests.",
            "llm_model_awake == 1",
            legend="{{model}}",
            width=8,
        ),
        stat(
            "Engines awake",
            "On each device.",
            "llm_engines_awake",
            legend="{{device}}",
            width=6,
        ),
        stat(
            "Switch under way",
            "To which model, and for how long.",
            "llm_switch_in_progress_seconds > 0",
            unit="s",
            legend="{{model}}",
            width=6,
        ),
        names(
            "Version",
            "Of the gateway, and how it runs engines.",
            "llm_build_info",
            legend="{{version}} ({{setup}})",
        ),
        timeline(
            "Residency",
            "Where the weights of each model were.",
            coded("llm_model_residency", "residency", RESIDENCIES, MODEL),
            COLOURS,
        ),
    ]


def _waits() -> list[AnyPanel]:
    return [
        stat("In flight", "Requests that an engine works on.", "sum(llm_requests_in_flight)"),
        stat(
            "In line",
            "Requests that wait for a seat or for a switch.",
            "sum(llm_requests_waiting)",
            steps=((16, "orange"), (32, "red")),
        ),
        lines(
            "In flight and in line",
            "Requests that an engine works on, and those that wait.",
            [
                (select("llm_requests_in_flight", MODEL), "{{model}} in flight"),
                (select("llm_requests_waiting", MODEL), "{{model}} in line"),
            ],
            width=16,
        ),
        lines(
            "Wait in line",
            "From asking for a lease to having it: half of the requests waited for less than p50.",
            percentiles("llm_queue_wait_seconds", 0.5, 0.95),
            unit="s",
            steps=((60, "orange"), (300, "red")),
        ),
        lines(
            "What was waited for",
            "Seconds that requests waited, for each second of time: a switch, a seat at a busy "
            "engine, a device that somebody has leased.",
            [(per_second("llm_queue_wait_seconds_sum", "cause", MODEL), "{{cause}}")],
            unit="s",
            stacked=True,
        ),
    ]


def _requests() -> list[AnyPanel]:
    return [
        lines(
            "Requests by outcome",
            "`gone`: the client left before its answer was whole.",
            [(per_second("llm_requests_total", "status", MODEL, KEY), "{{status}}")],
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Requests by model",
            "`other`: requests that name no model of the catalog.",
            [(per_second("llm_requests_total", "model", MODEL, KEY), "{{model}}")],
            unit="reqps",
            stacked=True,
        ),
    ]


def _speed() -> list[AnyPanel]:
    return [
        lines(
            "Whole answer",
            "From the last byte of a request to the last byte of its answer.",
            percentiles("llm_request_duration_seconds", 0.5, 0.95),
            unit="s",
        ),
        lines(
            "First token",
            "Of streams, from the lease to the first piece that has output.",
            percentiles("llm_time_to_first_token_seconds", 0.5, 0.95),
            unit="s",
            steps=((10, "red"),),
        ),
        lines(
            "Each further token",
            "Of streams, after the first output.",
            percentiles("llm_time_per_output_token_seconds", 0.5, 0.95),
            unit="s",
        ),
        lines(
            "Tokens",
            "Tokens a second, as the engines count them.",
            [
                (
                    per_second("llm_tokens_total", "model, direction", MODEL, KEY),
                    "{{model}} {{direction}}",
                )
            ],
        ),
        lines(
            "What the gateway adds",
            "Duration of a request, less its wait and the engine's time.",
            percentiles("llm_gateway_overhead_seconds", 0.5, 0.95),
            unit="s",
            steps=((0.025, "orange"),),
        ),
        bars(
            "Refusals",
            "Errors that the gateway itself answered, by code: docs/reference/errors.md.",
            [(grown("llm_refusals_total", "code"), "{{code}}")],
        ),
    ]
