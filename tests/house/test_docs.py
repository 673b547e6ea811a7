"""What the documents point at exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.project import Project, no_findings

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


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
