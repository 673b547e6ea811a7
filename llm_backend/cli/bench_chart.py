"""The chart of a model benchmark, drawn by matplotlib where that is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_backend.cli.bench_figures import Line
from llm_backend.engines.installing import install_command
from llm_backend.errors import SetupError


def require(path: Path) -> None:
    """Refuse what cannot be drawn: after minutes of measuring it would be too late to say so.

    Raises:
        SetupError: there is no directory for the file, or matplotlib is not installed.
    """
    if not path.parent.is_dir():
        raise SetupError(f"The chart {path} cannot be written: there is no {path.parent}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise SetupError(
            "--chart needs matplotlib, which is not installed.",
            hint=f"Type: {install_command('matplotlib')}",
        )


def draw(path: Path, title: str, lines: Sequence[Line]) -> None:
    """Write the chart: times to the first token, and tokens per second, over concurrency.

    Raises:
        SetupError: the file cannot be written.
    """
    # Optional, so nothing can check such an import.
    figure_of = importlib.import_module("matplotlib.figure").Figure
    figure = figure_of(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for prompt in dict.fromkeys(line.prompt for line in lines):
        _plot(left, right, prompt, [line for line in lines if line.prompt == prompt])
    _finish(left, "Time to first token, ms (p50; band to p95)", lines)
    _finish(right, "Tokens per second, all answers together", lines)
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise SetupError(f"The chart {path} cannot be written: {error.strerror}.") from None


def _plot(left: Any, right: Any, prompt: str, lines: Sequence[Line]) -> None:
    measured = [(line.concurrency, line.ttft_ms) for line in lines if line.ttft_ms is not None]
    places = [concurrency for concurrency, _ in measured]
    low, high = [spread.p50 for _, spread in measured], [spread.p95 for _, spread in measured]
    left.plot(places, low, marker="o", label=prompt)
    left.fill_between(places, low, high, alpha=0.2)
    totals = [line.total_tokens_per_s for line in lines]
    right.plot([line.concurrency for line in lines], totals, marker="o", label=prompt)


def _finish(axis: Any, title: str, lines: Sequence[Line]) -> None:
    places = sorted({line.concurrency for line in lines})
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [str(place) for place in places])
    axis.set_xlabel("requests at once")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend()
