"""A gateway that is started anew whenever its configuration changes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from llm_backend.cli.bring_up import PROGRAM
from llm_backend.cli.door import signals_as_exit
from llm_backend.cli.project import Project
from llm_backend.cli.take_down import end_process
from llm_backend.cli.terminal import Terminal

LOOK_S = 0.5
"""How often the files are looked at."""
END_S = 40.0
"""How long a gateway may take to end: requests in flight have 30 s of it."""

Snapshot = dict[Path, tuple[int, int]]


def serve_and_reload(terminal: Terminal, project: Project, arguments: Sequence[str]) -> int:
    """Run `llm-backend serve` until Ctrl-C or SIGTERM, and anew after each change.

    Watched are all files in `config/`, and `.env`. The engine goes on meanwhile: the next gateway
    takes it over where its launch options are still the same.

    Args:
        terminal: Told of every start.
        project: Whose configuration.
        arguments: What comes after `serve`.

    Returns:
        The exit code.
    """
    try:
        with signals_as_exit():
            while True:
                seen = snapshot(project.root)
                _run_until_changed(terminal, project, arguments, seen)
    except (KeyboardInterrupt, SystemExit):
        return 0


def _run_until_changed(
    terminal: Terminal, project: Project, arguments: Sequence[str], seen: Snapshot
) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "serve", *arguments],
        env=os.environ | {"LLM_BACKEND_ROOT": str(project.root)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches it once, through us
    )
    told = False
    try:
        while (now := snapshot(project.root)) == seen:
            if process.poll() is not None and not told:
                told = True
                terminal.note(
                    f"The gateway ended with status {process.returncode}. It is started again "
                    "when its configuration changes."
                )
            time.sleep(LOOK_S)
        changed = sorted(path.name for path in {p for p, _ in seen.items() ^ now.items()})
        terminal.note(f"Changed: {', '.join(changed)}. Starting anew.")
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the gateway, whatever interrupts: then at once, for nobody else knows of it."""
    patience_s = END_S
    while process.poll() is None:
        try:
            end_process(psutil.Process(process.pid), patience_s)
        except (KeyboardInterrupt, SystemExit):
            patience_s = 0.0


def snapshot(root: Path) -> Snapshot:
    """Return what tells every watched file from its next version."""
    # Hidden files are those of an editor at work.
    config = (path for path in (root / "config").rglob("*") if not path.name.startswith("."))
    found = [*config, root / ".env"]
    return {path: mark for path in found if (mark := _mark(path)) is not None}


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # A directory changes with its entries, which have marks of their own.
    return None if path.is_dir() else (status.st_mtime_ns, status.st_size)
