"""The command line: every command, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import llm_backend
from llm_backend.cli.bench import bench
from llm_backend.cli.cache import clear
from llm_backend.cli.chat import chat
from llm_backend.cli.config import check
from llm_backend.cli.doctor import doctor
from llm_backend.cli.download import download
from llm_backend.cli.generate import generate
from llm_backend.cli.lease import give, leases, take
from llm_backend.cli.logs import logs
from llm_backend.cli.models import models
from llm_backend.cli.replay import replay
from llm_backend.cli.serve import serve
from llm_backend.cli.start import start
from llm_backend.cli.status import status
from llm_backend.cli.stop import stop
from llm_backend.cli.switch import switch
from llm_backend.cli.terminal import Terminal
from llm_backend.cli.top import top
from llm_backend.errors import ConnectionFailed, LLMBackendError, SetupError

FAILED = 1
UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""
DEFECT = 70
"""EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""

EXIT_CODES = {
    0: "done",
    FAILED: "it could not be done; the message says why, and what to type next",
    2: "wrong use of the command line",
    UNAVAILABLE: "the gateway does not run or answer, or weights could not be fetched",
    DEFECT: "a defect of llm-backend; the message names the log",
    75: "another gateway holds the device",
    78: "a setting or the catalog is wrong; the message names file, line and key",
    INTERRUPTED: "interrupted by Ctrl-C",
}

COMMANDS: tuple[Callable[..., None], ...] = (
    start,
    stop,
    status,
    top,
    models,
    switch,
    generate,
    chat,
    bench,
    download,
    logs,
    replay,
    doctor,
    serve,
)
GROUPS: dict[str, tuple[str, tuple[Callable[..., None], ...]]] = {
    "config": ("Settings and catalog.", (check,)),
    "cache": ("The answers that the gateway keeps.", (clear,)),
    "lease": ("Devices that other programs have for a time.", (take, give, leases)),
}
NAMES: dict[Callable[..., None], str] = {leases: "list"}
"""Commands that are called what Python calls something else."""


def build_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        name="llm-backend",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for command in COMMANDS:
        app.command()(command)
    for name, (about, commands) in GROUPS.items():
        group = typer.Typer(name=name, help=about, no_args_is_help=True, rich_markup_mode=None)
        group.callback()(_group)
        for command in commands:
            group.command(NAMES.get(command))(command)
        app.add_typer(group)
    return app


def _group() -> None:
    """Keep a group with one command a group."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llm-backend {llm_backend.__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback when something breaks.")
    ] = False,
) -> None:
    """Many language models on one GPU behind one OpenAI-compatible endpoint."""


def main() -> None:
    """Run the command line and exit with its code."""
    _mend_streams()
    sys.exit(run(sys.argv[1:]))


def _mend_streams() -> None:
    """Have all three standard streams, none of which ends a command for a letter it lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            nothing = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # until the end
            setattr(sys, name, nothing)
        elif name != "stderr":  # which never fails
            stream.reconfigure(errors="replace")


def run(arguments: list[str]) -> int:
    """Run one command.

    Returns:
        The exit code; `EXIT_CODES` says what each means.
    """
    terminal = Terminal(as_json="--json" in arguments)
    try:
        build_app()(arguments, prog_name="llm-backend")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except LLMBackendError as error:
        terminal.error(error)
        return exit_code(error)
    except Exception as defect:  # noqa: BLE001  # the edge: a defect must not look like a user's mistake
        return _report_defect(defect, terminal, debug="--debug" in arguments)
    return 0


def exit_code(error: LLMBackendError) -> int:
    """Return the exit code of an error of the tree."""
    if isinstance(error, SetupError):
        return error.exit_code
    return UNAVAILABLE if isinstance(error, ConnectionFailed) else FAILED


def _report_defect(defect: Exception, terminal: Terminal, *, debug: bool) -> int:
    """Say that this is a defect, where its traceback is, and how to see it."""
    text = "".join(traceback.format_exception(defect))
    descriptor, path = tempfile.mkstemp(prefix="llm-backend-defect-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if debug:
        terminal.note(text)
    message = f"A defect of llm-backend: {type(defect).__name__}: {defect}"
    hint = f"Its log: {path}. To see it at once, put --debug before the command. Please report it."
    terminal.error(LLMBackendError(message, hint=hint))
    return DEFECT
