"""Panels of the kinds that the dashboards use, with what all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as commons
from grafana_foundation_sdk.builders.common import StackingConfig, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.heatmap import YAxisConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.statetimeline import Panel as Timeline
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Lines
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="prometheus")
"""The data source that `grafana/provisioning` sets up."""

Steps = Sequence[tuple[float, str]]
"""From which value on which colour."""

Queries = Sequence[tuple[str, str]]
"""PromQL, and how its series are called."""

AnyPanel = Heatmap | Lines | Stat | Table | Timeline
P = TypeVar("P", Heatmap, Lines, Stat, Table, Timeline)

PLAIN: Steps = ()
GOOD_AT_0: Steps = ((1, "red"),)


def stat(  # noqa: PLR0913 - a panel has many options, all by keyword
    title: str,
    about: str,
    query: str,
    *,
    unit: str = "short",
    legend: str = "",
    steps: Steps = PLAIN,
    width: int = 4,
    none: str = "none",
    texts: Mapping[int, tuple[str, str]] | None = None,
) -> Stat:
    """Return one number, large; with a legend, the names of the series beside it."""
    text = common.BigValueTextMode.VALUE_AND_NAME if legend else common.BigValueTextMode.VALUE
    panel = (
        _framed(Stat(), title, about, width, 4)
        .unit(unit)
        .text_mode(text)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(commons.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(steps))
        .no_value(none)
        .with_target(_query(query, legend, "A").instant())
    )
    return panel.mappings([_mapping(texts)]) if texts else panel


def names(title: str, about: str, query: str, *, legend: str, width: int = 4) -> Stat:
    """Return the names of the series that there are, large."""
    return stat(title, about, query, legend=legend, width=width).text_mode(
        common.BigValueTextMode.NAME
    )


def lines(  # noqa: PLR0913 - a panel has many options, all by keyword
    title: str,
    about: str,
    queries: Queries,
    *,
    unit: str = "short",
    steps: Steps = PLAIN,
    width: int = 12,
    stacked: bool = False,
    most: float | None = None,
) -> Lines:
    """Return lines over time; with `steps`, the bounds are drawn."""
    panel = (
        _framed(Lines(), title, about, width, 8)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(_tooltip())
        .color_scheme(FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .thresholds(_thresholds(steps))
    )
    if steps:
        bounds = commons.GraphThresholdsStyleConfig()
        panel.thresholds_style(bounds.mode(common.GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(StackingConfig().mode(common.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    return _asking(panel, queries)


def bars(title: str, about: str, queries: Queries, *, width: int = 12) -> Lines:
    """Return counts over time, as stacked bars."""
    panel = lines(title, about, queries, width=width, stacked=True)
    return panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)


def timeline(
    title: str, about: str, query: str, texts: Mapping[int, tuple[str, str]], *, width: int = 24
) -> Timeline:
    """Return a line for each model, coloured by what it was when."""
    panel = (
        _framed(Timeline(), title, about, width, 7)
        .mappings([_mapping(texts)])
        .merge_values(True)
        .show_value(common.VisibilityMode.AUTO)
        .row_height(0.85)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend())
    )
    return _asking(panel, [(query, "{{model}}")])


def heatmap(title: str, about: str, query: str, *, unit: str = "s", width: int = 12) -> Heatmap:
    """Return the buckets of a histogram over time."""
    panel = _framed(Heatmap(), title, about, width, 8).calculate(False)
    panel.y_axis(YAxisConfig().unit(unit))
    target = _query(query, "{{le}}", "A").format(PromQueryFormat.HEATMAP)
    return panel.with_target(target)


def table(
    title: str,
    about: str,
    query: str,
    *,
    columns: Mapping[str, str],
    unit: str = "short",
    width: int = 12,
    height: int = 8,
) -> Table:
    """Return the series as rows; `columns` names the labels, and `Value`, as people read them."""
    hidden = {"Time": True, "__name__": True}
    options = {"excludeByName": hidden, "renameByName": dict(columns), "indexByName": {}}
    panel = (
        _framed(Table(), title, about, width, height)
        .unit(unit)
        .filterable(True)
        .with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=options))
    )
    return panel.with_target(_query(query, "", "A").instant().format(PromQueryFormat.TABLE))


def _framed(panel: P, title: str, about: str, width: int, height: int) -> P:
    panel.title(title)
    panel.description(about)
    panel.datasource(SOURCE)
    panel.span(width)
    panel.height(height)
    return panel


def _asking(panel: P, queries: Queries) -> P:
    for (expr, legend), ref in zip(queries, ascii_uppercase, strict=False):
        panel.with_target(_query(expr, legend, ref).range())
    return panel


def _query(expr: str, legend: str, ref: str) -> Dataquery:
    query = Dataquery().expr(expr).ref_id(ref).datasource(SOURCE)
    return query.legend_format(legend) if legend else query


def _thresholds(steps: Steps) -> ThresholdsConfig:
    base = "green" if steps else "text"
    # Grafana's first step has no value: it is the colour of everything below the second one.
    first = dashboard.Threshold(value=None, color=base)
    rest = [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps([first, *rest])


def _mapping(texts: Mapping[int, tuple[str, str]]) -> dashboard.ValueMapping:
    results = {
        str(value): dashboard.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return dashboard.ValueMap(options=results)


def _legend() -> VizLegendOptions:
    legend = VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    return legend.display_mode(common.LegendDisplayMode.LIST).calcs([])


def _tooltip() -> commons.VizTooltipOptions:
    tooltip = commons.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return tooltip.sort(common.SortOrder.DESCENDING)
