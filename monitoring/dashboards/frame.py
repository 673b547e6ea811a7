"""What every dashboard has: variables, links to the others, marks for switches, rows of panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from monitoring.dashboards.panels import SOURCE, AnyPanel

TAG: Final = "llm-backend"
"""Dashboards with it link to each other."""

SWITCHES: Final = (
    "sum by (from, to, rung, outcome) "
    "(llm_switches_total - llm_switches_total offset $__interval) > 0"
)
"""Switches that ended between two points of a graph; a counter that began anew shows none."""

Rows = Iterable[tuple[str, Sequence[AnyPanel]]]


def framed(name: str, title: str, about: str, rows: Rows) -> dashboard.Dashboard:
    """Build a dashboard.

    Args:
        name: The end of its uid, and the name of its file.
        title: What people call it.
        about: What it answers.
        rows: Titles, each with its panels; their widths fill lines of 24.
    """
    builder = (
        Dashboard(f"llm-backend: {title}")
        .uid(f"{TAG}-{name}")
        .description(about)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(_others())
        .variables([_variable("model", "Model"), _variable("key", "Key")])
        .annotations([_Switches()])
    )
    for row, panels in rows:
        builder.with_row(Row(row))
        for panel in panels:
            builder.with_panel(panel)
    return _numbered(builder.build())


def _others() -> DashboardLink:
    link = DashboardLink("Dashboards").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).include_vars(True).keep_time(True)


def _variable(label: str, title: str) -> QueryVariable:
    """Return a choice among the values of a label; by default all of them."""
    return (
        QueryVariable(label)
        .label(title)
        .datasource(SOURCE)
        .query(f"label_values(llm_requests_total, {label})")
        .refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


class _Switches(Builder[dashboard.AnnotationQuery]):
    """Marks where a switch ended."""

    def build(self) -> dashboard.AnnotationQuery:
        return _Marks(
            name="Switches",
            datasource=SOURCE,
            enable=True,
            icon_color="light-blue",
            expr=SWITCHES,
        )


class _Marks(dashboard.AnnotationQuery):
    """An annotation with the fields of Prometheus that the SDK's type leaves out."""

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "titleFormat": "{{from}} → {{to}}",
            "textFormat": "{{outcome}}, from {{rung}}",
            "tagKeys": "to,outcome",
        }


def _numbered(built: dashboard.Dashboard) -> dashboard.Dashboard:
    """Give every panel the number by which links name it."""
    for number, panel in enumerate(built.panels or (), 1):
        panel.id_val = number
    return built
