"""`llm-backend logs`: what the gateway and the engines wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from llm_backend.cli.options import complete_source
from llm_backend.cli.project import Project, open_project
from llm_backend.errors import SetupError
from llm_backend.runtimes import logfile

Source = Annotated[
    str,
    typer.Argument(
        metavar="{gateway|MODEL|redis|all}", help="Whose log.", autocompletion=complete_source
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on as new lines come, until Ctrl-C.")
]
Lines = Annotated[
    int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many lines to begin with.")
]


def logs(source: Source = "gateway", follow: Follow = False, lines: Lines = 50) -> None:
    """Show a log.

    With `all`, every log: each line then begins with whose it is.
    """
    files = log_files(open_project(), source)
    if follow:
        with suppress(asyncio.CancelledError):
            asyncio.run(_follow(files, lines))
        return
    for name, path in files.items():
        for line in logfile.tail(path, lines):
            print(_labelled(name, line, files))


def log_files(project: Project, source: str) -> dict[str, Path]:
    """Return the logs that a source stands for, by whose they are.

    Raises:
        SetupError: there is no such log (yet).
        ModelNotFound: the source is neither a model nor one of the other names.
    """
    if source == "redis":
        raise SetupError(
            "There is no log of Redis: this set-up keeps cached answers in the gateway's memory.",
            hint="The gateway's own log: llm-backend logs gateway",
        )
    if source == "all":
        return _all_logs(project)
    if source == "gateway":
        return _one_log("gateway", project.gateway_log, "start")
    model = project.model(source).id
    return _one_log(model, project.engine_log(model), f"switch {model}")


def _one_log(name: str, path: Path, maker: str) -> dict[str, Path]:
    if path.exists():
        return {name: path}
    whose = "the gateway" if name == "gateway" else name
    raise SetupError(
        f"There is no log of {whose} yet, at {path}.", hint=f"What makes one: llm-backend {maker}"
    )


def _all_logs(project: Project) -> dict[str, Path]:
    paths = {"gateway": project.gateway_log}
    paths |= {model: project.engine_log(model) for model in project.catalog.models}
    found = {name: path for name, path in paths.items() if path.exists()}
    return found or _one_log("gateway", project.gateway_log, "start")


async def _follow(files: Mapping[str, Path], lines: int) -> None:
    async with asyncio.TaskGroup() as group:
        for name, path in files.items():
            group.create_task(_print_all(logfile.follow(path, lines), name, files))


async def _print_all(log: AsyncIterator[str], name: str, files: Mapping[str, Path]) -> None:
    async for line in log:
        print(_labelled(name, line, files), flush=True)


def _labelled(name: str, line: str, files: Mapping[str, Path]) -> str:
    if len(files) == 1:
        return line
    width = max(len(other) for other in files)
    return f"{name:<{width}} | {line}"
