"""How an answer is shown while it is written: markdown on a terminal, else as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from llm_backend.cli.asking import Waiting, for_output
from llm_backend.cli.terminal import Terminal, printable

FRAMES_PER_S: Final = 8
MARGIN: Final = 2
"""Lines that an answer in progress leaves free: with all of them taken the window would roll."""


class Shown(Protocol):
    """An answer on the screen."""

    def wait(self, text: str) -> None:
        """Show what is waited for; never after the first text."""
        ...

    def add(self, text: str) -> None:
        """Show the next piece of the text."""
        ...


class Screen(Protocol):
    """Where answers are shown."""

    @contextmanager
    def answering(self, who: str) -> Iterator[Shown]:
        """Show one answer; on leaving, what came of it stays on the screen."""
        ...


class PlainScreen:
    """Answers as they are written, for pipes and files."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    @contextmanager
    def answering(self, who: str) -> Iterator[Shown]:
        """Show one answer, each piece at once, and end its last line."""
        with Waiting(self._terminal, who) as waiting:
            shown = _Plain(waiting)
            try:
                yield shown
            finally:
                if shown.began:
                    print(flush=True)


@dataclass(slots=True)
class _Plain:
    waiting: Waiting
    began: bool = False

    def wait(self, text: str) -> None:
        self.waiting.say(text)

    def add(self, text: str) -> None:
        self.waiting.over()
        self.began = True
        print(for_output(text), end="", flush=True)


class MarkdownScreen:
    """Answers as markdown, drawn anew as they grow; while they do, their end is what shows."""

    def __init__(self, terminal: Terminal) -> None:
        self._console = terminal.out

    @contextmanager
    def answering(self, who: str) -> Iterator[Shown]:
        """Show one answer; at its end the whole of it stays where the scrolling goes."""
        growing = Growing(who)
        live = Live(growing, console=self._console, refresh_per_second=FRAMES_PER_S, transient=True)
        try:
            with live:
                yield growing
        finally:
            if growing.text:
                self._console.print(rendered(growing.text))


class Growing:
    """An answer that is being written: the last lines that the window has room for.

    Attributes:
        text: What came so far.
    """

    def __init__(self, who: str) -> None:
        self.text = ""
        self._spinner = Spinner("dots", Text(who, style="dim"))
        self._who = who

    def wait(self, text: str) -> None:
        """Show what is waited for."""
        self._spinner.update(text=Text(f"{self._who}: {text}", style="dim"))

    def add(self, text: str) -> None:
        """Show the next piece of the text."""
        self.text += text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.text:
            yield self._spinner
            return
        lines = console.render_lines(rendered(self.text), options.update(height=None), pad=False)
        room = max(1, console.size.height - MARGIN)
        for line in lines[-room:]:
            yield from line
            yield Segment.line()


def rendered(text: str) -> Markdown:
    """Return a text as markdown that leaves out nothing of it: tags are shown, not obeyed."""
    text = printable(text)
    markdown = Markdown(text, hyperlinks=False)
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    markdown.parsed = parser.parse(text)
    return markdown
