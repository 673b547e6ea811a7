"""Every program of the how-to runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .server import Server

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "python-client.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

blocks = BLOCK.findall(PAGE.read_text("utf-8"))
programs = [
    pytest.param(program, output, id=f"block {number}")
    for number, ((kind, program), (_, output)) in enumerate(
        zip(blocks[::2], blocks[1::2], strict=True)
    )
    if kind == "python"
]


def test_each_program_is_followed_by_its_output() -> None:
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    assert len(programs) >= 7


@pytest.mark.parametrize(("program", "output"), programs)
def test_a_program_prints_what_the_page_says(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    output: str,
) -> None:
    monkeypatch.setenv("LLM_BASE_URL", server.url)
    exec(compile(program, str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102  # our page
    assert capsys.readouterr().out == output
