"""Every program of the how-tos runs, and prints what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from .server import Server

PAGES = ("python-client.md", "structured-output.md")
FOLDER = Path(__file__).parents[3] / "docs" / "howto"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((FOLDER / page).read_text("utf-8"))


def programs() -> Iterator[ParameterSet]:
    for page in PAGES:
        found = blocks(page)
        pairs = zip(found[::2], found[1::2], strict=True)
        for number, ((_, program), (_, output)) in enumerate(pairs):
            yield pytest.param(program, output, id=f"{page} {number}")


@pytest.mark.parametrize("page", PAGES)
def test_each_program_is_followed_by_its_output(page: str) -> None:
    kinds = [kind for kind, _ in blocks(page)]
    assert kinds == ["python", "text"] * (len(kinds) // 2)
    assert len(kinds) >= 6


@pytest.mark.parametrize(("program", "output"), list(programs()))
def test_a_program_prints_what_the_page_says(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    output: str,
) -> None:
    monkeypatch.setenv("LLM_BASE_URL", server.url)
    exec(compile(program, str(FOLDER), "exec", dont_inherit=True), {"__name__": "__main__"})  # noqa: S102  # our page
    assert capsys.readouterr().out == output
