"""What the dashboards and rules ask of Prometheus, for the tests that look at it or ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

ROOT: Final = Path(__file__).parents[1]
MONITORING: Final = ROOT / "monitoring"
DASHBOARDS: Final = MONITORING / "grafana" / "dashboards"
RULES: Final = MONITORING / "prometheus" / "rules"
RULE_TESTS: Final = MONITORING / "prometheus" / "tests"

VLLM_PAGE: Final = ROOT / "tests" / "e2e" / "ground" / "vllm" / "metrics.txt"
"""What vLLM 0.32 exported once; only what nobody asks for was left out."""

WINDOWS: Final = {"__rate_interval": "1m", "__interval": "30s", "__range": "1h"}
"""What Grafana puts for its own variables when an hour is shown."""

QUIET: Final = {
    "engines: Image cache, A": "needs a model that reads images",
    "engines: Preemptions and rejections, A": "needs an engine whose cache is full",
    "engines: Preemptions and rejections, B": "needs an engine with limits of its own",
}
"""Queries that a healthy vLLM with a model for text does not answer, by reason."""


@dataclass(frozen=True)
class Query:
    """One question to Prometheus.

    Attributes:
        place: Where it is asked, for people.
        expr: PromQL.
    """

    place: str
    expr: str


def boards() -> dict[str, dict[str, Any]]:
    """Return the dashboards as Grafana reads them, by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def board_queries(windows: Mapping[str, str] = WINDOWS) -> list[Query]:
    """Return what panels and annotations ask, with every variable at `All`."""
    return [
        Query(place, filled(expr, windows))
        for name, board in boards().items()
        for place, expr in _asked(name, board)
    ]


def _asked(name: str, board: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield f"{name}: {panel['title']}, {target['refId']}", target["expr"]
    for mark in board["annotations"]["list"]:
        yield f"{name}: marks of {mark['name']}", mark["expr"]


def filled(expr: str, windows: Mapping[str, str] = WINDOWS) -> str:
    """Put values for the variables of a dashboard."""
    values = {**windows, "model": ".*", "key": ".*"}
    return re.sub(r"\$(\w+)", lambda variable: values[variable[1]], expr)


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    return [
        rule
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def rule_queries() -> list[Query]:
    """Return what rules ask."""
    return [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


@dataclass(frozen=True)
class Selector:
    """What an expression selects.

    Attributes:
        series: The name.
        labels: Labels with the values that it asks for; a pattern stands for none.
    """

    series: str
    labels: tuple[tuple[str, frozenset[str]], ...]


def texts(expr: str) -> list[str]:
    """Return everything that an expression selects, as PromQL without ranges and offsets."""
    found: list[str] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(f"{node.name}{node.matchers}")

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def selectors(expr: str) -> list[Selector]:
    """Return everything that an expression selects."""
    found: list[Selector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(_selector(node))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def _selector(node: promql_parser.VectorSelector) -> Selector:
    matchers = node.matchers.matchers
    return Selector(node.name or "", tuple((m.name, _values(m)) for m in matchers))


def _values(matcher: promql_parser.Matcher) -> frozenset[str]:
    is_pattern = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
    if is_pattern and not re.fullmatch(r"[\w|-]+", matcher.value):
        return frozenset()
    return frozenset(matcher.value.split("|") if is_pattern else [matcher.value])


DURATION: Final = re.compile(r"(?<=\[)\d+[smhd](?=\])")
BOUND: Final = re.compile(r"(_seconds\S* > )(\d+)(?= and |$)")
BUCKET: Final = re.compile(r'(le=")(\d+\.\d+)(?=")')
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def scaled(text: str, factor: float, bounds: float | None = None) -> str:
    """Return rules in which all that is time is so many times shorter.

    Windows, `for`, bounds that stand behind a series of seconds, and the bounds of buckets, which
    have to be those of other buckets then.

    Args:
        text: A file of rules.
        factor: How many times shorter.
        bounds: How many times smaller bounds are, if not by the same.
    """
    groups = yaml.safe_load(text)
    for group in groups["groups"]:
        for rule in group["rules"]:
            rule["expr"] = scaled_expr(rule["expr"], factor, bounds or factor)
            if "for" in rule:
                rule["for"] = _shorter(rule["for"], factor)
    return yaml.safe_dump(groups, sort_keys=False)


def scaled_expr(expr: str, factor: float, bounds: float) -> str:
    """Return an expression in which all that is time is so many times shorter."""
    expr = DURATION.sub(lambda found: _shorter(found[0], factor), expr)
    expr = BOUND.sub(lambda found: f"{found[1]}{int(found[2]) / bounds:g}", expr)
    return BUCKET.sub(lambda found: f"{found[1]}{float(found[2]) / bounds:.1f}", expr)


def _shorter(duration: str, factor: float) -> str:
    seconds = int(duration[:-1]) * SECONDS[duration[-1]]
    return f"{round(seconds * 1000 / factor)}ms"
