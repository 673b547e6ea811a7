"""Dashboards and rules: whole, up to date, and about series that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from llm_backend.errors import RequestError, ServiceError
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.labels import STAGES, codes
from llm_backend.switching.states import State
from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.vocabulary import ModelLabels, Vocabulary
from monitoring.dashboards.boards import FOLDER, files
from tests import watching
from tests.house.project import Project, no_findings
from tests.watching import RULE_TESTS, RULES, Query, alerts, board_queries, boards

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: sudo apt-get install -y prometheus"
)

ABOUT_SCRAPES: Final = {"job", "instance", "model", "le"}
"""Labels that Prometheus or the discovery of targets adds; `le` is on every bucket."""

OF_PROMETHEUS: Final = {
    "up": {"job": {"gateway", "engines"}},
    "ALERTS": {"alertstate": {"firing"}, "alertname": set(), "severity": set()},
}
"""Series of Prometheus itself, with the labels that are asked for."""

Exported = dict[str, dict[str, set[str]]]
"""Series, their labels, and the values of those."""


def exported(page: str) -> Exported:
    """Return what a metrics page exports."""
    found: Exported = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name].setdefault("", set())
    return found


@pytest.fixture(scope="module")
def gateway() -> Exported:
    """What a gateway with two models, two devices and two keys exports."""
    routes = dict.fromkeys(ENDPOINTS, True)
    words = Vocabulary(
        models=[ModelLabels(name, routes, ["gpu0", "cpu"], [1, 2]) for name in ("a", "b")],
        routes=list(ENDPOINTS),
        keys=["anonymous", "laptop"],
        codes=sorted({*codes(RequestError), *codes(ServiceError)}),
        states=[state.value for state in State],
        stages=STAGES,
        devices=["gpu0", "cpu"],
        build=("1.0.0", "local"),
    )
    return exported(Metrics(words).render().decode())


@pytest.fixture(scope="module")
def known(gateway: Exported) -> Exported:
    """Everything that can be asked for."""
    recorded: Exported = {
        rule["record"]: {"model": set()} for rule in watching.rules() if "record" in rule
    }
    return {**exported(watching.VLLM_PAGE.read_text()), **gateway, **recorded, **OF_PROMETHEUS}


def everything() -> list[Query]:
    return [*board_queries(), *watching.rule_queries()]


# Dashboards


def test_the_dashboards_are_what_their_source_says() -> None:
    written = {path.name: path.read_text() for path in FOLDER.iterdir()}

    assert written == files(), "make dashboards"


def test_dashboards_keep_their_names_and_know_each_other() -> None:
    # People link to a uid; the data source and the home page are named in the provisioning.
    assert {name: board["uid"] for name, board in boards().items()} == {
        name: f"llm-backend-{name}"
        for name in ("overview", "switching", "engines", "clients", "gpu")
    }
    for board in boards().values():
        (link,) = board["links"]
        assert (link["type"], link["tags"]) == ("dashboards", ["llm-backend"])
        assert link["tags"] == board["tags"]
        assert link["includeVars"]
        assert [variable["name"] for variable in board["templating"]["list"]] == ["model", "key"]
        assert [mark["name"] for mark in board["annotations"]["list"]] == ["Switches"]


def test_grafanas_types_read_the_dashboards_without_a_rest() -> None:
    plugins.register_default_plugins()  # the types of each kind of panel and of queries
    for written in boards().values():
        again = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
        for mark in written["annotations"]["list"]:
            for field in ("titleFormat", "textFormat", "tagKeys"):
                del mark[field]  # Prometheus' own, which the type of annotations leaves out
        assert again == written


def test_a_panel_explains_itself_and_has_a_unit_and_the_provisioned_source(
    project: Project,
) -> None:
    provisioning = project.root / "monitoring/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(provisioning.read_text())["datasources"]
    for board in boards().values():
        for panel in watching.panels(board):
            assert panel["title"]
            assert panel["description"].endswith((".", "errors.md.")), panel["title"]
            assert panel["targets"], panel["title"]
            if panel["type"] not in {"state-timeline", "heatmap"}:
                assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert {each["uid"] for each in sources} == {source["uid"]}


def test_panels_have_numbers_and_places_of_their_own() -> None:
    for name, board in boards().items():
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers)
        no_findings(
            f"{name}: {one['title']} lies on {other['title']}"
            for one, other in combinations(board["panels"], 2)
            if overlap(one["gridPos"], other["gridPos"])
        )
        assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


# What is asked for


def findings(query: Query, known: Exported) -> Iterator[str]:
    """Yield what a query names and nothing exports."""
    for selector in watching.selectors(query.expr):
        labels = known.get(selector.series)
        if labels is None:
            yield f"{query.place}: {selector.series}"
            continue
        for label, values in selector.labels:
            if label not in {*labels, *ABOUT_SCRAPES}:
                yield f"{query.place}: {selector.series} has no label {label}"
            elif have := labels.get(label):
                yield from (f"{query.place}: no {label}={v}" for v in values - have)


def test_panels_and_rules_name_only_what_is_exported(known: Exported) -> None:
    no_findings(finding for query in everything() for finding in findings(query, known))


@pytest.mark.parametrize(
    ("expr", "finding"),
    [
        ("rate(llm_request_total[5m])", "x: llm_request_total"),
        ('llm_requests_total{state="5xx"}', "x: llm_requests_total has no label state"),
        ('sum(llm_requests_total{status=~"4xx|500"})', "x: no status=500"),
        ('llm_queue_wait_seconds_bucket{le="299.0"}', "x: no le=299.0"),
        ("vllm:gpu_cache_usage_perc", "x: vllm:gpu_cache_usage_perc"),
    ],
)
def test_what_nothing_exports_is_found(expr: str, finding: str, known: Exported) -> None:
    assert list(findings(Query("x", expr), known)) == [finding]


def test_sums_are_kept_apart_by_labels_that_there_are(known: Exported) -> None:
    found: list[str] = []
    for query in everything():

        def visit(node: promql_parser.Expr, place: str = query.place) -> None:
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
                have = ABOUT_SCRAPES | {
                    label
                    for selector in watching.selectors(node.expr.prettify())
                    for label in known[selector.series]
                }
                found.extend(f"{place}: by {x}" for x in node.modifier.labels if x not in have)

        promql_parser.walk(promql_parser.parse(query.expr), visit)
    no_findings(found)


def test_what_is_exported_is_shown_or_documented(gateway: Exported, project: Project) -> None:
    asked = {s.series for query in everything() for s in watching.selectors(query.expr)}
    page = project.text(project.root / "docs/reference/metrics.md")
    families = {re.sub(r"_(bucket|sum|count)$", "", series) for series in gateway}
    shown = {re.sub(r"_(bucket|sum|count)$", "", series) for series in asked}

    assert len(families) > 30
    no_findings(name for name in families - shown if f"`{name}`" not in page)


def legend_labels(board: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for panel in watching.panels(board):
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                yield panel["title"], watching.filled(target["expr"]), label


def test_legends_name_labels_that_the_answers_have(known: Exported) -> None:
    for board in boards().values():
        for title, expr, label in legend_labels(board):
            have = set(ABOUT_SCRAPES)
            for selector in watching.selectors(expr):
                have |= known[selector.series].keys()
            assert label in have, title


# Rules


@needs_promtool
def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"q{number}", "expr": query.expr} for number, query in enumerate(board_queries())
    ]
    asked = tmp_path / "panels.yml"
    asked.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    checked = promtool("check", "rules", "--lint-fatal", str(asked), *map(str, rule_files()))

    assert f"{len(rules)} rules found" in checked


@needs_promtool
def test_every_alert_fires_in_its_case_and_in_no_other() -> None:
    promtool("test", "rules", *map(str, sorted(RULE_TESTS.glob("*.yml"))))


@needs_promtool
@pytest.mark.parametrize("name", sorted(alerts()))
def test_the_cases_notice_an_alert_that_never_fires(name: str, tmp_path: Path) -> None:
    for path in rule_files():
        loaded = yaml.safe_load(path.read_text())
        for rule in (r for g in loaded["groups"] for r in g["rules"] if r.get("alert") == name):
            rule["expr"] = f"({rule['expr']}) and vector(1) < 0"
        (tmp_path / path.name).write_text(yaml.safe_dump(loaded))
    (case,) = (case for case in rule_cases() if case["name"] == f"{name} fires")
    alone = {"rule_files": ["*.yml"], "evaluation_interval": "15s", "tests": [case]}
    (tmp_path / "case").write_text(yaml.safe_dump(alone))

    with pytest.raises(subprocess.CalledProcessError):
        promtool("test", "rules", str(tmp_path / "case"))


def promtool(*arguments: str) -> str:
    assert PROMTOOL
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
    return done.stdout


def rule_cases() -> Iterator[dict[str, Any]]:
    for path in sorted(RULE_TESTS.glob("*.yml")):
        yield from yaml.safe_load(path.read_text())["tests"]


def rule_files() -> Iterable[Path]:
    return sorted(RULES.glob("*.yml"))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [case["name"] for case in rule_cases()]

    assert {case.split()[0] for case in cases} == set(alerts())
    for name in alerts():
        assert f"{name} fires" in cases
        assert [case for case in cases if case.startswith(f"{name} stays quiet: ")]


def test_every_alert_says_what_to_do_and_has_its_page(project: Project) -> None:
    pages = project.root / "docs" / "howto" / "alerts"
    named = set()
    for name, rule in alerts().items():
        kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
        notes = rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert notes["summary"].endswith(".")
        assert "First: " in notes["description"]
        assert notes["runbook_url"] == f"docs/howto/alerts/{kebab}.md"
        assert project.text(pages / f"{kebab}.md").startswith(f"# {name}")
        named.add(f"{kebab}.md")

    assert {path.name for path in pages.glob("*.md")} - {"index.md"} == named


def test_prometheus_is_given_the_rules(project: Project) -> None:
    config = yaml.safe_load(project.text(project.root / "monitoring/prometheus/prometheus.yml"))

    assert config["rule_files"] == ["rules/*.yml"]


def test_all_time_in_a_rule_is_scaled() -> None:
    text = (RULES / "alerts.yml").read_text() + (RULES / "recording.yml").read_text()
    exprs = [rule["expr"] for rule in watching.rules()]

    assert {bound for expr in exprs for _, bound in watching.BOUND.findall(expr)} == {
        "10",
        "60",
        "1200",
    }
    assert len(re.findall(r"\[\d", text)) == sum(len(watching.DURATION.findall(e)) for e in exprs)
    assert watching.scaled_expr('rate(a_seconds_bucket{le="300.0"}[15m])', 60, 60) == (
        'rate(a_seconds_bucket{le="5.0"}[15000ms])'
    )
    assert watching.scaled_expr("a_seconds > 60 and a_seconds > 3 * (b_seconds > 0)", 60, 60) == (
        "a_seconds > 1 and a_seconds > 3 * (b_seconds > 0)"
    )
