from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.measure import Sample
from bench.programs import Outcome
from bench.report import BEGIN, END, Report, faults, markdown, put_into, verdicts

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "kernel": "6.1",
    "python": "3.11",
    "date": "2026-01-01",
    "load_average": 0.0,
}


def sample(scenario: str, target: str, cpu_us: float | None, **fields: Any) -> Sample:
    numbers = dict.fromkeys(Outcome.__slots__, 1) | {"errors": 0, "first_error": ""}
    number = fields.pop("round", 0)
    return Sample(scenario, target, number, Outcome(**{**numbers, **fields}), cpu_us)


def report(*samples: Sample) -> Report:
    versions = {s.target: "1" for s in samples}
    return Report(MACHINE, {"rounds": 3, "seconds": 1.0}, versions, samples=list(samples))


def test_the_median_of_the_rounds_counts() -> None:
    rounds = [sample("request-64", "ours", cpu, round=i) for i, cpu in enumerate((90, 30, 40))]

    assert report(*rounds).figures()["request-64"]["ours"].cpu_us == 40


def test_latency_is_told_above_that_without_a_gateway_in_the_same_round() -> None:
    figures = report(
        sample("request-1", "direct", None, p50_us=20, round=0),
        sample("request-1", "direct", None, p50_us=100, round=1),
        sample("request-1", "ours", 1, p50_us=70, round=0),
        sample("request-1", "ours", 1, p50_us=150, round=1),
    ).figures()["request-1"]

    assert figures["ours"].added_us == 50
    assert figures["direct"].added_us is None


def test_ratios_are_multiples_of_the_yardstick_in_the_same_scenario() -> None:
    ratios = report(
        sample("request-64", "vllm-router", 50),
        sample("request-64", "ours", 75),
        sample("stream-32", "vllm-router", 10),
        sample("stream-32", "ours", 5),
    ).ratios()

    assert ratios["request-64"] == {"vllm-router": 1, "ours": 1.5}
    assert ratios["stream-32"]["ours"] == 0.5


def test_our_cache_is_told_against_a_plain_request_of_the_yardstick() -> None:
    ratios = report(
        sample("request-64", "vllm-router", 50), sample("cache-memory", "ours", 25)
    ).ratios()

    assert ratios["cache-memory"]["ours"] == 0.5


@pytest.mark.parametrize(("ours", "verdict"), [(80, "holds"), (81, "does not hold")])
def test_a_bar_holds_up_to_its_limit(ours: float, verdict: str) -> None:
    lines = verdicts(
        report(sample("request-64", "vllm-router", 50), sample("request-64", "ours", ours))
    )

    assert len(lines) == 1
    assert lines[0].endswith(f": {verdict}")


def test_nothing_is_said_of_a_bar_that_was_not_measured() -> None:
    assert verdicts(report(sample("request-64", "ours", 80))) == []


def test_errors_are_told_with_the_first_of_them() -> None:
    found = report(
        sample("request-64", "ours", 1, round=0),
        sample("request-64", "ours", 1, errors=2, first_error="another body", round=1),
    )

    assert faults(found) == ["request-64, ours: 2 errors, as another body"]


@pytest.mark.parametrize(("hits", "told"), [(900, 0), (899, 1)])
def test_a_cache_that_rarely_hits_is_not_measured(hits: int, told: int) -> None:
    found = report(sample("cache-redis", "ours-redis", 1, answers=1000, marked=hits))

    assert len(faults(found)) == told


def test_a_report_survives_its_json() -> None:
    before = report(sample("request-64", "vllm-router", 50), sample("request-64", "ours", 75))
    after = Report.from_json(json.loads(json.dumps(before.to_json())))

    assert after == before


def test_markdown_has_a_row_for_each_gateway_and_none_for_what_is_no_gateway() -> None:
    text = markdown(
        report(
            sample("request-64", "direct", None),
            sample("request-64", "vllm-router", 50),
            sample("request-64", "ours", 75),
        ),
        "benchmarks.png",
    )

    assert "| gateway | 64 connections |\n|---|---:|" in text
    assert "| ours | 75.0 (1.50x) |" in text
    assert "| no gateway |" not in text
    assert "](benchmarks.png)" in text


def test_figures_replace_what_stood_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")

    put_into(page, "new")
    put_into(page, "newer")

    assert page.read_text() == f"Before.\n\n{BEGIN}\n\nnewer\n\n{END}\n\nAfter.\n"


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Nothing here.")

    with pytest.raises(ValueError, match=r"page\.md has no lines"):
        put_into(page, "new")
    assert page.read_text() == "Nothing here."
