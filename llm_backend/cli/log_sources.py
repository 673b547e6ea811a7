"""Where logs come from: files of this machine, or containers."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llm_backend.cli import docker
from llm_backend.cli.compose import catalog_containers, stack_of
from llm_backend.cli.control import RunRecord
from llm_backend.cli.project import Project
from llm_backend.errors import SetupError
from llm_backend.runtimes import logfile

LINE_LIMIT = 1024 * 1024
"""Bytes of the longest line that is shown whole."""


class Log(Protocol):
    """A log that can be read from its end."""

    def tail(self, lines: int) -> list[str]:
        """Return the last lines."""
        ...

    def follow(self, lines: int) -> AsyncIterator[str]:
        """Yield the last lines, then new ones as they come."""
        ...


@dataclass(frozen=True, slots=True)
class FileLog:
    """A log in a file."""

    path: Path

    def tail(self, lines: int) -> list[str]:
        """Return the last lines."""
        return logfile.tail(self.path, lines)

    def follow(self, lines: int) -> AsyncIterator[str]:
        """Yield the last lines, then new ones as they come; never ends by itself."""
        return logfile.follow(self.path, lines)


@dataclass(frozen=True, slots=True)
class ContainerLog:
    """What Docker keeps of a container's output."""

    container: str

    def tail(self, lines: int) -> list[str]:
        """Return the last lines.

        Raises:
            SetupError: Docker does not answer.
        """
        answer = docker.work(
            *("logs", "--tail", str(lines), self.container),
            on_line=lambda _: None,
            timeout_s=docker.ANSWER_S,
        )
        if not answer.ok:
            raise SetupError(
                f"Docker does not show the log of {self.container}: {answer.err or answer.out}",
                hint="Type: docker ps --all",
            )
        return answer.out.splitlines()

    async def follow(self, lines: int) -> AsyncIterator[str]:
        """Yield the last lines, then new ones as they come, until the container ends."""
        process = await asyncio.create_subprocess_exec(
            *("docker", "logs", "--follow", "--tail", str(lines), self.container),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            limit=LINE_LIMIT,
        )
        try:
            while process.stdout and (line := await process.stdout.readline()):
                yield line.decode(errors="replace").rstrip()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def container_logs(project: Project) -> dict[str, Log]:
    """Return the logs of the compose set-up by service, an engine's by its model.

    Empty where no start has made containers.

    Raises:
        SetupError: Docker does not answer.
    """
    stack = stack_of(project)
    if stack is None:
        return {}
    models = dict(catalog_containers(project))
    services = sorted(stack.services(), key=lambda service: service.name)
    return {
        models.get(service.container, service.name): ContainerLog(service.container)
        for service in services
    }


def gateway_log(project: Project, record: RunRecord) -> Log:
    """Return the log of a running gateway."""
    if record.in_container:
        return container_logs(project)["gateway"]
    return FileLog(project.gateway_log)
