"""`llm-backend logs`: what the gateway, the engines and the services wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from llm_backend.cli.log_sources import FileLog, Log, container_logs
from llm_backend.cli.options import complete_source
from llm_backend.cli.project import Project, open_project
from llm_backend.errors import SetupError

SERVICES = ("redis", "prometheus", "grafana", "docker-filter")
"""What has a log in the compose set-up alone, besides the gateway and the engines."""

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

    With `all`, every log: each line then begins with whose it is. In the compose set-up also
    `prometheus`, `grafana` and `docker-filter`.
    """
    sources = find_logs(open_project(), source)
    if follow:
        with suppress(asyncio.CancelledError):
            asyncio.run(_follow(sources, lines))
        return
    for name, log in sources.items():
        for line in log.tail(lines):
            print(_labelled(name, line, sources))


def find_logs(project: Project, source: str) -> dict[str, Log]:
    """Return the logs that a source stands for, by whose they are.

    Raises:
        SetupError: there is no such log (yet).
        ModelNotFound: the source is neither a model nor one of the other names.
    """
    in_containers = container_logs(project)
    if not in_containers:
        return _files(project, source)
    if source == "all":
        return in_containers
    name = source if source in ("gateway", *SERVICES) else project.model(source).id
    if name not in in_containers:
        raise SetupError(
            f"{name} has no container here.", hint=f"There are logs of: {', '.join(in_containers)}"
        )
    return {name: in_containers[name]}


def _files(project: Project, source: str) -> dict[str, Log]:
    if source in SERVICES:
        raise SetupError(
            f"There is no log of {source}: in this set-up it does not run. "
            "Cached answers are in the gateway's memory.",
            hint="The gateway's own log: llm-backend logs gateway",
        )
    if source == "all":
        return _all_files(project)
    if source == "gateway":
        return _one_file("gateway", project.gateway_log, "start")
    model = project.model(source).id
    return _one_file(model, project.engine_log(model), f"switch {model}")


def _one_file(name: str, path: Path, maker: str) -> dict[str, Log]:
    if path.exists():
        return {name: FileLog(path)}
    whose = "the gateway" if name == "gateway" else name
    raise SetupError(
        f"There is no log of {whose} yet, at {path}.", hint=f"What makes one: llm-backend {maker}"
    )


def _all_files(project: Project) -> dict[str, Log]:
    paths = {"gateway": project.gateway_log}
    paths |= {model: project.engine_log(model) for model in project.catalog.models}
    found: dict[str, Log] = {name: FileLog(path) for name, path in paths.items() if path.exists()}
    return found or _one_file("gateway", project.gateway_log, "start")


async def _follow(sources: Mapping[str, Log], lines: int) -> None:
    async with asyncio.TaskGroup() as group:
        for name, log in sources.items():
            group.create_task(_print_all(log.follow(lines), name, sources))


async def _print_all(lines: AsyncIterator[str], name: str, sources: Mapping[str, Log]) -> None:
    async for line in lines:
        print(_labelled(name, line, sources), flush=True)


def _labelled(name: str, line: str, sources: Mapping[str, Log]) -> str:
    if len(sources) == 1:
        return line
    width = max(len(other) for other in sources)
    return f"{name:<{width}} | {line}"
