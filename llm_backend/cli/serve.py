"""`llm-backend serve`: the gateway itself, in the foreground."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from llm_backend.cli.options import SetupOption
from llm_backend.cli.project import open_project
from llm_backend.config import check, refuse


def serve(
    setup: SetupOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 takes any."),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(hidden=True, help="Where standard output goes, for the record.")
    ] = None,
) -> None:
    """Run the gateway in the foreground.

    As a service manager wants it: nothing is asked, no model is loaded, SIGTERM ends it. Set-up
    is local, unless compose is asked for, as docker-compose.yml does.
    """
    flags = {"setup": setup, "server.host": host, "server.port": port}
    project = open_project(flags)
    if project.settings.setup == "auto":
        project = open_project({**flags, "setup": "local"})
    refuse(check(project.settings, project.catalog))
    # Relative paths of the catalog start at the root.
    os.chdir(project.root)
    # It loads the whole gateway, which no other command needs.
    from llm_backend.server import run  # noqa: PLC0415  # costs a second

    raise typer.Exit(run(project.settings, log_path=log_file))
