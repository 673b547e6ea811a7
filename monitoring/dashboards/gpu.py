"""Who has the memory of each device."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import framed
from monitoring.dashboards.panels import AnyPanel, bars, lines, stat
from monitoring.dashboards.promql import MODEL, grown, select

MEMORY = "llm_device_memory_bytes"


def board() -> Dashboard:
    """Build it."""
    return framed(
        "gpu",
        "GPU",
        "Who has the memory of each device. What a probe cannot see has no line.",
        (("Now", _now()), ("Memory", _memory()), ("Who else?", _others())),
    )


def _now() -> list[AnyPanel]:
    used = f"{_kind('used')} / on (device) {_kind('total')}"
    return [
        stat(
            "In use",
            "Share of the memory of the device that anybody has.",
            used,
            unit="percentunit",
            legend="{{device}}",
            steps=((0.95, "orange"), (0.98, "red")),
            width=6,
        ),
        stat(
            "Free",
            "Memory that nobody has.",
            _kind("free"),
            unit="bytes",
            legend="{{device}}",
            width=6,
        ),
        stat(
            "Foreign",
            "Memory of programs that are not engines of this gateway.",
            f"{_kind('foreign')} >= 0",
            unit="bytes",
            legend="{{device}}",
            none="unknown",
            width=6,
        ),
        stat(
            "Leases",
            "By which other programs have memory of the device.",
            "llm_device_leases",
            legend="{{device}}",
            width=6,
        ),
    ]


def _kind(kind: str) -> str:
    return select(MEMORY, f'kind="{kind}"')


def _memory() -> list[AnyPanel]:
    return [
        lines(
            "Memory",
            "All of it, what is in use, and what other programs have of that.",
            [
                (_kind("total"), "{{device}} total"),
                (_kind("used"), "{{device}} used"),
                (_kind("foreign"), "{{device}} foreign"),
            ],
            unit="bytes",
        ),
        lines(
            "Free",
            "Before an engine starts, what it needs is seen to be free.",
            [(_kind("free"), "{{device}}")],
            unit="bytes",
        ),
        lines(
            "Reserved by models",
            "What the catalog reserves for each model in its residency.",
            [(select("llm_engine_memory_bytes", MODEL), "{{device}} {{model}}")],
            unit="bytes",
            stacked=True,
        ),
        lines(
            "Engines awake",
            "On each device.",
            [("llm_engines_awake", "{{device}}")],
        ),
    ]


def _others() -> list[AnyPanel]:
    return [
        lines(
            "Leases",
            "By which other programs have memory of the device.",
            [("llm_device_leases", "{{device}}")],
        ),
        bars(
            "Requests refused for want of memory",
            "503 `gpu_busy`: somebody else has the memory that the model needs.",
            [(grown("llm_refusals_total", "code", 'code="gpu_busy"'), "{{code}}")],
        ),
    ]
