"""`llm-backend stop`: end the gateway and every engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llm_backend.cli.options import AsJson
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.take_down import Ended, take_down, turn
from llm_backend.cli.terminal import Terminal

PATIENCE_S = 30.0


def stop(
    patience: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long running requests may take to finish."
        ),
    ] = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """End the gateway and every engine.

    Leaves no process, container, port or lock, and works as well where the gateway has died and
    left an engine. Ctrl-C while it waits: don't wait any longer.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    with turn(project.state_dir):
        ended = end_all(terminal, project, patience)
    if as_json:
        terminal.result(asdict(ended))


def end_all(terminal: Terminal, project: Project, patience_s: float) -> Ended:
    """End everything that runs on this state directory, and say what it was."""
    with terminal.progress("stopping") as report:
        ended = take_down(project, patience_s, report)
    for line in _sentences(ended):
        terminal.say(line)
    return ended


def _sentences(ended: Ended) -> list[str]:
    lines = [f"Stopped the engine of {model}." for model in ended.models]
    if ended.gateway is not None:
        how = "Killed" if ended.forced else "Stopped"
        lines.append(f"{how} the gateway (process {ended.gateway}).")
    if ended.services:
        lines.append(f"Stopped the containers: {', '.join(ended.services)}.")
    return lines or ["Nothing runs."]
