"""The version, the changelog and what the package claims agree."""

from __future__ import annotations

import re

import llm_backend
from tests.house.project import Project


def test_the_changelog_opens_with_the_version_of_the_package(project: Project) -> None:
    headings = re.findall(
        r"^## \[(.+?)\]", project.text(project.root / "CHANGELOG.md"), re.MULTILINE
    )

    assert headings[0] == llm_backend.__version__


def test_the_licence_is_the_whole_apache_licence(project: Project) -> None:
    text = project.text(project.root / "LICENSE")

    assert project.pyproject["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_checks_aim_at_the_oldest_python_that_is_promised(project: Project) -> None:
    settings = project.pyproject
    oldest = settings["project"]["requires-python"].removeprefix(">=")

    assert settings["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"Programming Language :: Python :: {oldest}" in settings["project"]["classifiers"]
    assert f"--python-version {oldest} " in project.text(project.root / "Makefile")
