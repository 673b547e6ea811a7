"""What the pages about programs of others say: their programs, outputs and configurations."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.harness import REPOSITORY

FOLDER = REPOSITORY / "docs/howto/works-with"
ADDRESS = "http://localhost:7000"
CATALOG: dict[str, Any] = yaml.safe_load((REPOSITORY / "config/models.yaml").read_text())["models"]


def text_of(page: str) -> str:
    return (FOLDER / f"{page}.md").read_text("utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    """Return the contents of a page's code blocks in these languages, in their order."""
    kinds = "|".join(languages)
    pattern = rf"^```(?:{kinds})\n(.*?)^```$"
    return re.findall(pattern, text_of(page), re.MULTILINE | re.DOTALL)


def block(page: str, language: str) -> str:
    """Return the content of a page's only code block in a language."""
    (only,) = blocks(page, language)
    return only


def configuration(page: str, language: str) -> Any:
    """Return a page's only block of YAML or JSON, parsed."""
    text = block(page, language)
    return json.loads(text) if language == "json" else yaml.safe_load(text)


def table(page: str) -> dict[str, str]:
    """Return the rows of a page's table of two columns, its head included, without marks of code."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text_of(page), re.MULTILINE)
    return {name: value.strip("`") for name, value in rows}
