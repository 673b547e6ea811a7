"""The tree speaks of the project alone: no machine's paths, no package index's address."""

from __future__ import annotations

import re

from tests.house.project import Project, no_findings

INDEX = re.compile(
    r"https?://[^\s\"'<>)]*(?:pypi|pythonhosted|npmjs|/simple\b|deb\.debian|mirror|artifactory)"
    r"|--(?:extra-)?index-url\s+\S|--find-links\s+\S|--trusted-host\s+\S",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.$}~/])/(?:root|home/(?!me/)\w+|Users/\w+|work|workspace)/")


def lines_with(project: Project, pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{project.name(path)}:{number} {line.strip()[:100]}"
        for path in project.files
        if path.name != "test_words.py" and path.suffix not in {".gguf", ".png", ".ico"}
        for number, line in enumerate(project.text(path).splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_index(project: Project) -> None:
    no_findings(lines_with(project, INDEX))


def test_no_file_names_a_path_of_one_machine(project: Project) -> None:
    no_findings(lines_with(project, MACHINE_PATH))


def test_the_patterns_find_what_they_are_for() -> None:
    assert INDEX.search("pip install --index-url https://packages.example/x")
    assert INDEX.search("see https://pypi.example/simple/")
    assert MACHINE_PATH.search("cd /home/someone/llm")
    assert not MACHINE_PATH.search("tests/home/file")
