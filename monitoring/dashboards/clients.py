"""What the response cache spares the engines, and who asks for how much."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import framed
from monitoring.dashboards.panels import AnyPanel, bars, lines, stat, table
from monitoring.dashboards.promql import KEY, MODEL, grown, in_range, per_second, ratio

STATUS = 'status=~"4xx|5xx"'


def board() -> Dashboard:
    """Build it."""
    return framed(
        "clients",
        "cache and clients",
        "What the response cache spares the engines, and who asks for how much.",
        (
            ("What does the cache spare?", [*_spared(), *_spared_over_time()]),
            ("How is the cache?", _cache()),
            ("Who asks?", [*_keys(), *_manners()]),
        ),
    )


def _spared() -> list[AnyPanel]:
    return [
        stat(
            "Hits",
            "Share of the cacheable requests that were answered from the cache, over five minutes.",
            "llm:cache_hits:ratio_rate5m",
            unit="percentunit",
            none="nothing asked",
            width=6,
        ),
        stat(
            "Switch time spared",
            "What the switches would have taken, in the time that is shown.",
            "sum(increase(llm_switch_saved_seconds_total[$__range]))",
            unit="s",
            width=6,
        ),
        stat(
            "Calls joined",
            "Requests that waited for the engine call of an equal one, in the time that is shown.",
            "sum(increase(llm_single_flight_joins_total[$__range]))",
            width=6,
        ),
        stat(
            "Breaker",
            "Open: Redis failed several times in a row and is left alone for a moment.",
            "llm_cache_breaker_open",
            texts={0: ("closed", "green"), 1: ("open", "red")},
            width=6,
        ),
    ]


def _spared_over_time() -> list[AnyPanel]:
    hits = per_second("llm_requests_total", "model", MODEL, KEY, 'cache="hit"')
    asked = per_second("llm_requests_total", "model", MODEL, KEY, 'cache=~"hit|miss"')
    return [
        lines(
            "What the cache did",
            "`bypass`: not cacheable, or the client wanted a new answer.",
            [(per_second("llm_requests_total", "cache", MODEL, KEY), "{{cache}}")],
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Hits by model",
            "Share of the cacheable requests.",
            [(ratio(hits, asked), "{{model}}")],
            unit="percentunit",
            most=1,
        ),
        lines(
            "Switch time spared by model",
            "Seconds a second: hits for models that were not awake.",
            [(per_second("llm_switch_saved_seconds_total", "model", MODEL), "{{model}}")],
            unit="s",
        ),
        lines(
            "Calls joined by model",
            "Equal requests at the same moment share one engine call.",
            [(per_second("llm_single_flight_joins_total", "model", MODEL), "{{model}}")],
            unit="reqps",
        ),
    ]


def _cache() -> list[AnyPanel]:
    return [
        lines(
            "Size",
            "Of the answers that are kept.",
            [("llm_cache_bytes", "{{tier}}")],
            unit="bytes",
            width=8,
        ),
        lines("Answers kept", "In each tier.", [("llm_cache_entries", "{{tier}}")], width=8),
        bars(
            "Errors",
            "Operations that Redis failed at. No request fails for it.",
            [
                (
                    grown("llm_cache_errors_total", "operation"),
                    "{{operation}}",
                )
            ],
            width=8,
        ),
    ]


def _keys() -> list[AnyPanel]:
    return [
        table(
            "Requests by key",
            "In the time that is shown.",
            f"{in_range('llm_requests_total', 'key, model', MODEL, KEY)} > 0",
            columns={"key": "Key", "model": "Model", "Value": "Requests"},
        ),
        table(
            "Tokens by key",
            "In the time that is shown, as the engines count them.",
            f"{in_range('llm_tokens_total', 'key, direction', MODEL, KEY)} > 0",
            columns={"key": "Key", "direction": "Direction", "Value": "Tokens"},
        ),
        lines(
            "Requests by key over time",
            "Who asks how often.",
            [(per_second("llm_requests_total", "key", MODEL, KEY), "{{key}}")],
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Output by key over time",
            "Tokens a second that were made for each key.",
            [(per_second("llm_tokens_total", "key", MODEL, KEY, 'direction="out"'), "{{key}}")],
            stacked=True,
        ),
    ]


def _manners() -> list[AnyPanel]:
    return [
        lines(
            "Errors by key",
            "Requests that ended with 4xx, which is the client's, or 5xx, which is ours.",
            [
                (
                    f"{per_second('llm_requests_total', 'key, status', MODEL, KEY, STATUS)} > 0",
                    "{{key}} {{status}}",
                )
            ],
            unit="reqps",
        ),
        bars(
            "Clients that left",
            "While they waited, or in the middle of their answer.",
            [
                (
                    grown("llm_departures_total", "model, stage", MODEL),
                    "{{model}} {{stage}}",
                )
            ],
        ),
        lines(
            "Who watches",
            "Clients that follow what happens: consoles and terminals.",
            [("llm_event_listeners", "listeners")],
            width=24,
        ),
    ]
