"""Every feature has tests that run, and the page that lists them is what the markers say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.house.features import PAGE, Shown, areas, render, shown
from tests.house.project import Project, no_findings

SKIPS = frozenset({"skip", "xfail"})


@pytest.fixture(scope="module")
def tests(project: Project) -> list[Shown]:
    return shown(project)


@pytest.fixture(scope="module")
def listed() -> list[str]:
    return [name for features in areas().values() for name in features]


def test_every_feature_has_a_test_that_ci_runs(listed: list[str], tests: list[Shown]) -> None:
    run = {test.feature for test in tests if not test.by_hand}

    no_findings(name for name in listed if name not in run)


def test_every_marker_names_a_feature_of_the_list(listed: list[str], tests: list[Shown]) -> None:
    unknown = (t for t in tests if t.feature not in listed)

    no_findings(f"{t.file} {t.name}: {t.feature!r} is not in features.yaml" for t in unknown)


def test_every_feature_is_listed_once(listed: list[str]) -> None:
    no_findings(name for name, times in Counter(listed).items() if times > 1)


def test_no_test_of_a_feature_is_skipped_whatever_happens(tests: list[Shown]) -> None:
    no_findings(f"{test.file} {test.name}" for test in tests if SKIPS & test.marks)


def test_in_ci_a_skipped_test_fails(project: Project) -> None:
    makefile = project.text(project.root / "Makefile")

    assert "$(if $(filter true 1,$(CI)),-p tests.no_skips)" in makefile
    assert "export CI=true" in project.text(project.root / ".ci" / "run")


def test_every_marker_is_read(project: Project, tests: list[Shown]) -> None:
    """One that the reader of this page cannot see would be a feature that the page hides."""
    written: Counter[str] = Counter()
    for path in project.under("tests"):
        if path.name.startswith("test_") and path.name != Path(__file__).name:
            written[project.name(path)] += project.text(path).count("pytest.mark.feature(")

    assert +written == Counter(test.file for test in tests)


def test_the_page_is_what_the_markers_say(project: Project) -> None:
    assert project.text(project.root / PAGE) == render(project), "it is old: make features"
