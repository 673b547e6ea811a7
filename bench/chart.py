"""Draws the chart: `python chart.py REPORT.json CHART.png`, in an environment that has matplotlib.

It is a program of its own because nothing else here needs matplotlib.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

YARDSTICK = "vllm-router"
WIDEST = 3.0
"""Bars over this multiple of the yardstick's are cut, ours never; the number beside them stays."""

PANELS = (
    ("request-64", "request, 64 connections"),
    ("stream-128", "chunk, 128 paced streams"),
)
OURS = "#c2410c"
OTHERS = "#94a3b8"


def main() -> None:
    report = json.loads(Path(sys.argv[1]).read_bytes())
    # Not installed beside the gateway, so nothing there can check such an import.
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10, 3), layout="constrained")
    for axis, (scenario, title) in zip(axes, PANELS, strict=True):
        draw(axis, title, costs(report, scenario))
    figure.savefig(sys.argv[2], dpi=150)


def costs(report: dict[str, Any], scenario: str) -> dict[str, float]:
    """Return the median CPU time of each gateway, the cheapest first."""
    found: dict[str, list[float]] = {}
    for sample in report["samples"]:
        if sample["scenario"] == scenario and sample["cpu_us"] is not None:
            found.setdefault(sample["target"], []).append(sample["cpu_us"])
    middle = {name: sorted(values)[len(values) // 2] for name, values in found.items()}
    return dict(sorted(middle.items(), key=lambda item: item[1]))


def draw(axis: Any, title: str, values: dict[str, float]) -> None:
    """Draw one panel: a bar a gateway, with its figure."""
    widest = WIDEST * values.get(YARDSTICK, max(values.values(), default=1.0))
    widest = max(widest, values.get("ours", 0.0))
    names = list(values)[::-1]
    lengths = [min(values[name], widest) for name in names]
    bars = axis.barh(names, lengths, color=[OURS if n == "ours" else OTHERS for n in names])
    texts = [label(values[name], widest) for name in names]
    axis.bar_label(bars, labels=texts, padding=3)
    axis.set_xlim(0, max(lengths, default=1.0) * 1.25)
    axis.set_title(f"CPU microseconds per {title}", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def label(value: float, widest: float) -> str:
    """Return the figure beside a bar."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{text} (cut)" if value > widest else text


if __name__ == "__main__":
    main()
