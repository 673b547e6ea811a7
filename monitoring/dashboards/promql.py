"""PromQL as the panels need it, with the variables of the dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MODEL: Final = 'model=~"$model"'
KEY: Final = 'key=~"$key"'
WINDOW: Final = "[$__rate_interval]"


def select(series: str, *labels: str) -> str:
    """Return a selector: the series with these matchers."""
    return f"{series}{{{','.join(labels)}}}" if labels else series


def per_second(series: str, by: str, *labels: str) -> str:
    """Return how fast a counter grows, summed up."""
    return f"sum by ({by}) (rate({select(series, *labels)}{WINDOW}))"


def grown(series: str, by: str, *labels: str) -> str:
    """Return by how much a counter grew about each point; nothing where it did not."""
    return f"sum by ({by}) (increase({select(series, *labels)}{WINDOW})) > 0"


def in_range(series: str, by: str, *labels: str) -> str:
    """Return by how much a counter grew in the time that is shown."""
    return f"sum by ({by}) (increase({select(series, *labels)}[$__range]))"


def quantile(share: float, series: str, by: str, *labels: str) -> str:
    """Return a quantile of a histogram."""
    bucket = select(f"{series}_bucket", *labels)
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({bucket}{WINDOW})))"


def percentiles(
    series: str, *shares: float, by: str = "model", legend: str = "{{model}}"
) -> list[tuple[str, str]]:
    """Return quantiles of a histogram of models, and how they are called: `{{model}} p95`."""
    return [
        (quantile(share, series, by, MODEL), f"{legend} p{round(share * 100)}") for share in shares
    ]


def mean(series: str, by: str, *labels: str) -> str:
    """Return the mean of a histogram; nothing where nothing was observed."""
    total, count = (per_second(f"{series}_{part}", by, *labels) for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def ratio(part: str, whole: str) -> str:
    """Return a share; nothing where there is nothing to share."""
    return f"{part} / ({whole} > 0)"


def coded(series: str, label: str, values: Sequence[str], *labels: str) -> str:
    """Return a number for the value of `label` whose series is 1: its place in `values`."""
    matchers = [f'{label}="{value}"' for value in values]
    terms = [f"{code} * {select(series, this, *labels)}" for code, this in enumerate(matchers)]
    return f"max by (model) ({' or '.join(terms)})"
