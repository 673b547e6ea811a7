"""What the documents point at exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llm_backend.config.environment import RESERVED, RESERVED_PREFIXES
from llm_backend.config.explain import explain
from llm_backend.config.settings import Settings
from tests.house.project import Project, no_findings

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)

NO_SETTINGS = {"LLM_SERVER_PORT", "LLM_GPU_RESULTS", "server.address"}
"""An example of a mistake, a variable of the tests on a GPU, and an attribute of OpenTelemetry."""


def documents(project: Project) -> list[Path]:
    return [path for path in project.files if path.suffix == ".md"]


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, spelled as web front ends spell them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken_links(project: Project, document: Path) -> Iterator[str]:
    for target in LINK.findall(CODE.sub("", project.text(document))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(project.text(path))):
            yield f"{project.name(document)}: {target}"


def test_relative_links_lead_somewhere(project: Project) -> None:
    broken = [link for path in documents(project) for link in broken_links(project, path)]

    no_findings(broken)


def test_every_document_is_reachable_from_the_index(project: Project) -> None:
    seen: set[Path] = set()
    todo = [project.root / "docs" / "index.md"]
    while todo:
        document = todo.pop()
        if document in seen or document.suffix != ".md":
            continue
        seen.add(document)
        links = LINK.findall(project.text(document))
        todo += [(document.parent / link.partition("#")[0]).resolve() for link in links]
    lost = [project.name(path) for path in documents(project) if "docs" in path.parts]

    no_findings(set(lost) - {project.name(path) for path in seen if path.exists()})


def test_scripts_and_targets_that_are_named_exist(project: Project) -> None:
    makefile = project.text(project.root / "Makefile")
    missing = []
    for document in documents(project):
        text = project.text(document)
        missing += [
            s for s in re.findall(r"\bscripts/\w+\.sh", text) if not (project.root / s).exists()
        ]
        missing += [
            f"make {target}"
            for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)
            if not re.search(rf"^{target}:", makefile, re.MULTILINE)
        ]

    no_findings(missing)


def test_settings_that_are_named_exist(project: Project) -> None:
    settings = explain(Settings())
    sections = "|".join({one.key.partition(".")[0] for one in settings if "." in one.key})
    name = re.compile(rf"`((?:{sections})\.(?!sh\b)[a-z_]+)[`:]|(?<![A-Z_])(LLM_[A-Z_]*[A-Z])")
    known = {one.key for one in settings} | {one.variable for one in settings}
    known |= NO_SETTINGS | set(RESERVED)
    named = {
        (project.name(document), key or variable)
        for document in documents(project)
        for key, variable in name.findall(project.text(document))
    }

    no_findings(
        f"{document}: {one}"
        for document, one in named
        if one not in known and not f"{one}_".startswith(RESERVED_PREFIXES)
    )


def test_modules_that_are_named_exist(project: Project) -> None:
    names = {path.name for path in project.files}
    pages = [
        path for path in documents(project) if "docs" in path.parts or path.name == "README.md"
    ]

    no_findings(
        f"{project.name(page)}: {name}"
        for page in pages
        for name in re.findall(r"`(?:[\w./-]*/)?(\w+\.py)`", project.text(page))
        if name not in names
    )


def layers_told(project: Project) -> list[set[str]]:
    """Return the layers of the page on the architecture, from the top."""
    page = project.text(project.root / "docs" / "explanation" / "architecture.md")
    (table,) = re.findall(r"\| layer \| [^\n]*\n\|[-|]+\n(.*?)\n\n", page, re.DOTALL)
    return [set(re.findall(r"`(\w+)`", line.split(" | ")[0])) for line in table.splitlines()]


def test_the_layers_are_those_of_the_contract(project: Project) -> None:
    contracts = project.pyproject["tool"]["importlinter"]["contracts"]
    (one_way,) = (each["layers"] for each in contracts if each["id"] == "one-way")
    layers = [set(re.findall(r"\w+", layer)) for layer in one_way]

    assert layers_told(project) == [layer for layer in layers if layer != {"__main__"}]


def test_the_budgets_are_those_of_the_makefile(project: Project) -> None:
    told = re.findall(
        r"^\| `make ([a-z]+)` .* (\d+) min \|$",
        project.text(project.root / "CONTRIBUTING.md"),
        re.MULTILINE,
    )
    rules = re.findall(
        r"^([a-z]+):(?!=).*\n((?:[\t ].*\n|ifn?eq.*\n|else.*\n|endif\n)+)",
        project.text(project.root / "Makefile"),
        re.MULTILINE,
    )
    budgets = {
        (target, minutes)
        for target, recipe in rules
        for minutes in re.findall(r"\$\(STEP\) (?:\w+|\"[^\"]*\") (\d+) \$\(PYTEST\)", recipe)
    }

    assert set(told) == budgets
