"""Who had the device when, what a switch takes, and how good the estimates are."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import framed
from monitoring.dashboards.panels import (
    AnyPanel,
    bars,
    heatmap,
    lines,
    stat,
    table,
    timeline,
)
from monitoring.dashboards.promql import MODEL, coded, grown, in_range, mean, percentiles, select

STATES = ("stopped", "asleep", "starting", "awake", "draining", "stopping", "failed")
COLOURS = {
    0: ("stopped", "rgba(128, 128, 128, 0.25)"),
    1: ("asleep", "light-blue"),
    2: ("starting", "yellow"),
    3: ("awake", "green"),
    4: ("draining", "orange"),
    5: ("stopping", "purple"),
    6: ("failed", "red"),
}


def board() -> Dashboard:
    """Build it."""
    return framed(
        "switching",
        "switching",
        "Who had the device when, what a switch takes, and how good the estimates are.",
        (
            ("Who had the device?", _holders()),
            ("How long does it take?", _times()),
            ("Estimate and truth", _estimates()),
            ("What goes wrong?", _faults()),
        ),
    )


def _holders() -> list[AnyPanel]:
    return [
        timeline(
            "States",
            "What each model did when: awake, on its way there, on its way out.",
            coded("llm_model_state", "state", STATES, MODEL),
            COLOURS,
        ),
        stat(
            "Switches",
            "That brought a model up in the time that is shown.",
            'sum(increase(llm_switches_total{outcome="ok"}[$__range]))',
            width=6,
        ),
        stat(
            "Time in switches",
            "Share of a quarter of an hour in which a device was loading instead of answering.",
            "llm:switching:share_rate15m",
            unit="percentunit",
            steps=((0.25, "orange"), (0.5, "red")),
            width=6,
        ),
        stat(
            "Saved by the cache",
            "What the switches would have taken that answers from the cache made unnecessary, in "
            "the time that is shown.",
            "sum(increase(llm_switch_saved_seconds_total[$__range]))",
            unit="s",
            width=6,
        ),
        stat(
            "Under way",
            "To which model, and for how long.",
            "llm_switch_in_progress_seconds > 0",
            unit="s",
            legend="{{model}}",
            width=6,
        ),
        bars(
            "Switches by outcome",
            "`cancelled`: called off, because nobody wanted the model any more or another one "
            "was wanted first.",
            [(grown("llm_switches_total", "outcome"), "{{outcome}}")],
        ),
        table(
            "Switches from and to",
            "In the time that is shown. The rung says what the model came up from.",
            f"{in_range('llm_switches_total', 'from, to, rung, outcome')} > 0",
            columns={"from": "From", "to": "To", "rung": "Rung", "outcome": "Outcome"},
        ),
    ]


def _times() -> list[AnyPanel]:
    return [
        lines(
            "Whole switch",
            "From the moment that the old model began to leave until the new one was awake.",
            percentiles(
                "llm_switch_duration_seconds",
                0.5,
                0.95,
                by="model, rung",
                legend="{{model}} from {{rung}}",
            ),
            unit="s",
        ),
        heatmap(
            "Switches by duration",
            "How many took how long.",
            f"sum by (le) (increase({select('llm_switch_duration_seconds_bucket', MODEL)}"
            "[$__rate_interval]))",
        ),
        lines(
            "Stages",
            "Mean of each stage; `start` and `adopt` hold other stages.",
            [
                (
                    mean("llm_switch_stage_duration_seconds", "model, stage", MODEL),
                    "{{model}} {{stage}}",
                )
            ],
            unit="s",
        ),
        lines(
            "Stages over the time that is shown",
            "What a stage took in all, for each model.",
            [
                (
                    f"{in_range('llm_switch_stage_duration_seconds_sum', 'stage', MODEL)} > 0",
                    "{{stage}}",
                )
            ],
            unit="s",
        ),
    ]


def _estimates() -> list[AnyPanel]:
    estimate = select("llm_switch_estimate_seconds", MODEL)
    actual = select("llm_switch_actual_seconds", MODEL)
    return [
        lines(
            "Last switch",
            "What clients were told when it began, and what it took.",
            [(estimate, "{{model}} estimated"), (actual, "{{model}} taken")],
            unit="s",
        ),
        lines(
            "Error of the estimate",
            "Taken, as a multiple of what was estimated: 1 is right, 2 is twice as long. Nothing "
            "while a switch is under way.",
            [
                (
                    f"{actual} / ({estimate} > 0) unless llm_switch_in_progress_seconds > 0",
                    "{{model}}",
                )
            ],
            steps=((1.5, "orange"), (3, "red")),
        ),
        lines(
            "Under way",
            "For how long a switch has been running, beside its estimate.",
            [
                (select("llm_switch_in_progress_seconds", MODEL), "{{model}} under way"),
                (estimate, "{{model}} estimated"),
            ],
            unit="s",
            width=24,
        ),
    ]


def _faults() -> list[AnyPanel]:
    return [
        bars(
            "Restarts",
            "Engines started in place of one that ended against the gateway's will, by its end.",
            [
                (
                    grown("llm_engine_restarts_total", "model, reason", MODEL),
                    "{{model}} {{reason}}",
                )
            ],
            width=8,
        ),
        bars(
            "Sleep that failed",
            "Engines that did not fall asleep or wake up as they should.",
            [
                (
                    grown("llm_sleep_failures_total", "model, step, reason", MODEL),
                    "{{model}} {{step}}: {{reason}}",
                )
            ],
            width=8,
        ),
        bars(
            "Failures",
            "Times that a model came into the state `failed`.",
            [
                (
                    grown("llm_model_state_changes_total", "model", 'state="failed"', MODEL),
                    "{{model}}",
                )
            ],
            width=8,
        ),
    ]
