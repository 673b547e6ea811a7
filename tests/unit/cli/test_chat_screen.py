"""How answers look: markdown that leaves nothing out, within the window; plain text in a pipe."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from llm_backend.cli.chat_screen import (
    Growing,
    MarkdownScreen,
    PlainScreen,
    Screen,
    rendered,
)
from llm_backend.cli.terminal import Terminal

pytestmark = pytest.mark.feature("chat at the terminal")


def drawn(what: object, width: int = 40, height: int = 10) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_markdown_is_drawn() -> None:
    text = drawn(rendered("# Title\n\n- *one*\n- two\n\n```python\nx = 1\n```"))

    assert "Title" in text
    assert " • one" in text
    assert "x = 1" in text
    assert "#" not in text
    assert "`" not in text


@pytest.mark.parametrize("text", ["List<String> a", "<think>\nwell\n</think>", "a <b>c</b> d"])
def test_what_looks_like_a_tag_is_shown(text: str) -> None:
    assert "".join(drawn(rendered(text)).split()) == "".join(text.split())


def test_a_link_shows_where_it_leads() -> None:
    assert "(http://other.example)" in drawn(
        rendered("[http://bank.example](http://other.example)"), 80
    )


def test_what_would_command_a_terminal_is_left_out() -> None:
    assert "\x1b" not in drawn(rendered("a\x1b[2Jb"))


@pytest.mark.parametrize("width", [20, 40, 100])
def test_a_growing_answer_shows_its_end_within_the_window(width: int) -> None:
    growing = Growing("tiny")
    growing.add("\n\n".join(f"line {number} of this rather long text" for number in range(50)))
    lines = drawn(growing, width).splitlines()

    assert len(lines) <= 8
    assert "text" in lines[-1]
    assert max(map(len, lines)) <= width


def test_before_the_first_word_it_shows_what_it_waits_for() -> None:
    growing = Growing("tiny")
    growing.wait("loading tiny, about 12 s left")

    assert "tiny: loading tiny, about 12 s left" in drawn(growing, 80)


def test_at_the_end_the_whole_answer_stays() -> None:
    terminal = Terminal()
    terminal.out = Console(file=io.StringIO(), width=40, height=5, force_terminal=True)
    with terminal.out.capture() as capture, suppress(KeyboardInterrupt):
        answer_until_ctrl_c(MarkdownScreen(terminal))

    assert all(f"item {number}" in capture.get() for number in range(30))


def answer_until_ctrl_c(screen: Screen) -> None:
    with screen.answering("tiny") as shown:
        for number in range(30):
            shown.add(f"- item {number}\n")
        raise KeyboardInterrupt


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainScreen(Terminal()).answering("tiny") as shown:
        shown.wait("loading tiny")
        shown.add("**a**\x1b[0m")
        shown.add("b")

    assert capsys.readouterr() == ("**a**\x1b[0mb\n", "tiny: loading tiny\n")


def test_an_answer_of_nothing_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainScreen(Terminal()).answering("tiny"):
        pass

    assert capsys.readouterr().out == ""


def test_a_terminal_that_draws_nothing_gets_no_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with PlainScreen(Terminal()).answering("tiny") as shown:
        shown.add("a\x1b[2Jb")

    assert capsys.readouterr().out == "a[2Jb\n"
