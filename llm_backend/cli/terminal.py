"""Where commands write: results to standard output, everything else to standard error.

On a terminal there are colours (unless NO_COLOR is set) and progress bars; elsewhere plain
lines. With `--json` standard output holds exactly one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from llm_backend.errors import LLMBackendError
from llm_backend.wire import JSONObject


class Report(Protocol):
    """Takes how far a piece of work has come."""

    def __call__(self, text: str, fraction: float | None = None, detail: str = "") -> None:
        """Show a step.

        Args:
            text: What is being done now.
            fraction: From 0 to 1; None where nobody knows.
            detail: Figures that change all the time.
        """
        ...


PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal: nothing is folded for grep."""

_LEFT_BY_JSON = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COMMAND = re.compile(r"(?<![\w./-])llm-backend (?=[a-z])")


class Terminal:
    """The two streams of one command.

    Args:
        as_json: Standard output is for one JSON object; texts for people are left out.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer questions."""
        return not self.as_json and sys.stdin.isatty() and sys.stdout.isatty()

    def result(self, value: JSONObject) -> None:
        """Write the one JSON object of a command that was given `--json`."""
        print(json_text(value))

    def say(self, text: str = "", style: str = "") -> None:
        """Write a line of the result, for people."""
        if not self.as_json:
            self.out.print(Text(printable(typeable(text)), style=style), soft_wrap=True)

    def note(self, text: str, style: str = "") -> None:
        """Write a line about what is being done, to standard error."""
        self.err.print(Text(printable(typeable(text)), style=style), soft_wrap=True)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table of the result, for people."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        with self.out.capture() as drawn:
            self.out.print(table)
        for line in drawn.get().splitlines():
            print(line.rstrip())

    def error(self, error: LLMBackendError) -> None:
        """Show an error: what happened, then what to do, then the engine's last log lines."""
        if self.as_json:
            self.result(error_json(error))
            return
        said = Text.assemble(("Error: ", "bold red"), printable(typeable(error.message)))
        self.err.print(said, soft_wrap=True)
        if error.hint:
            self.note(error.hint)
        if error.log_tail:
            self.note("Last log lines:")
            for line in error.log_tail:
                self.note(f"  {line}", style="dim")

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        """Show how far a piece of work has come: a bar on a terminal, else a line a step."""
        if not self.err.is_terminal:
            yield _line_reporter(self, title)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(title, total=None)

            def report(text: str, fraction: float | None = None, detail: str = "") -> None:
                shown = f"{title}: {text} {detail}".rstrip()
                total = None if fraction is None else 1.0
                bar.update(task, description=shown, total=total, completed=fraction or 0.0)

            yield report


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def printable(text: str) -> str:
    """Return a text without what would move the cursor or otherwise command a terminal."""
    return _CONTROL.sub("", text)


def json_text(value: object) -> str:
    """Return a value as JSON, with escapes for all that would command a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _line_reporter(terminal: Terminal, title: str) -> Report:
    """Return a reporter that writes a line for each new text and each tenth of the way."""
    last: tuple[str, int] | None = None

    def report(text: str, fraction: float | None = None, detail: str = "") -> None:
        nonlocal last
        tenth = 0 if fraction is None else int(fraction * 10)
        if (text, tenth) == last:
            return
        last = (text, tenth)
        share = "" if fraction is None else f"({fraction:.0%})"
        terminal.note(" ".join(part for part in (f"{title}: {text}", share, detail) if part))

    return report


def error_json(error: LLMBackendError) -> JSONObject:
    """Return an error as `--json` shows it."""
    return {
        "error": {
            "message": typeable(error.message),
            "code": error.code,
            "hint": typeable(error.hint) if error.hint else None,
            "log_tail": list(error.log_tail),
        }
    }


def typeable(text: str) -> str:
    """Replace `llm-backend COMMAND` in a text by what this person can type here and now."""
    program = program_name()
    return text if program == "llm-backend" else _COMMAND.sub(f"{program} ", text)


def program_name() -> str:
    """Return how this program is called from the current directory."""
    if shutil.which("llm-backend"):
        return "llm-backend"
    script = Path(sys.executable).with_name("llm-backend")
    if not script.exists():
        return f"{sys.executable} -m llm_backend"
    here = Path.cwd()
    near = script.is_relative_to(here) and script.parent != here
    return str(script.relative_to(here) if near else script)


def mib(size: int) -> str:
    """Return a size in MiB as people write it."""
    return f"{size} MiB" if size < 1024 else f"{size / 1024:.1f} GiB"


def yes_no(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
