"""`llm-backend cache`: the answers that the gateway keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_backend.cli.control import Control, require_gateway
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal


def clear(
    model: Annotated[
        str | None, typer.Option(help="Forget only what this model answered.", metavar="ID")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forget cached answers."""
    terminal = Terminal(as_json=as_json)
    project = open_project()
    spec = project.model(model) if model else None
    with Control(require_gateway(project.state_dir), project.state_dir) as control:
        body = control.clear_cache(spec.id if spec else None)
    if as_json:
        terminal.result(body)
        return
    whose = f"The cached answers of {spec.id}" if spec else "All cached answers"
    terminal.say(f"{whose} are forgotten.")
