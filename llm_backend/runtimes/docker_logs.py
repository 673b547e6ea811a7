"""Logs of containers: what the last run wrote, and what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

from llm_backend.errors import ServiceError
from llm_backend.runtimes.docker_api import DockerApi, LogEntry, Refused
from llm_backend.runtimes.docker_state import Container, seconds

_LOOK_S: Final = 0.2
_ROUNDING_S: Final = 1e-6
"""A float of today's seconds since the epoch is that exact."""


async def tail(api: DockerApi, name: str, lines: int) -> list[str]:
    """Return the last log lines of a container's last run; none where Docker gives none."""
    try:
        container = await api.inspect(name)
        if container is None or lines <= 0 or container.status == "created":
            return []
        entries = await api.logs(name, lines, seconds(container.started_at))
    except (Refused, ServiceError):
        return []  # they explain a failure, and must not be one
    return [line for entry in entries for line in entry.lines][-lines:]


async def follow(
    api: DockerApi, name_of: Callable[[], str | None], lines: int
) -> AsyncIterator[str]:
    """Yield the last `lines` lines, then new ones as they come, until closed.

    Goes on through new runs, new containers of the name, and through a Docker that was gone.
    """
    follower = _Follower(api)
    if (name := name_of()) is not None:
        for line in await follower.begin(name, lines):
            yield line
    else:
        # By the first look at a new name its run may have written already: all of that is new.
        follower.begin_now()
        while (name := name_of()) is None:  # noqa: ASYNC110 - the first plan may never come
            await asyncio.sleep(_LOOK_S)
    while True:
        await follower.until_more(name)
        async for entry in follower.entries(name):
            for line in entry.lines:
                yield line


class _Follower:
    """A place in the log of a container."""

    def __init__(self, api: DockerApi) -> None:
        self._api = api
        self._last = ""
        """Time of the last entry that was read."""
        self._seen: Container | None = None

    async def begin(self, name: str, lines: int) -> list[str]:
        """Return the last lines and go to the end."""
        try:
            # One entry is read even for no lines, to know where the end is.
            entries = await self._api.logs(name, max(1, lines))
        except (Refused, ServiceError):
            return []
        self._last = entries[-1].at if entries else ""
        found = [line for entry in entries for line in entry.lines]
        return found[-lines:] if lines else []

    def begin_now(self) -> None:
        """Go to where a container that is not known yet will write."""
        self._last = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"  # as Docker writes it, shorter

    async def until_more(self, name: str) -> None:
        """Wait until the container runs, or has run since this was last asked."""
        while True:
            try:
                now = await self._api.inspect(name)
            except (Refused, ServiceError):
                now = None
            if now is not None and (now.alive or now.instance != self._instance()):
                self._seen = now
                return
            await asyncio.sleep(_LOOK_S)

    def _instance(self) -> str:
        return self._seen.instance if self._seen else ""

    async def entries(self, name: str) -> AsyncIterator[LogEntry]:
        """Yield new entries until the container ends, or the stream is cut."""
        since = seconds(self._last) - _ROUNDING_S if self._last else None
        try:
            async with self._api.follow(name, since) as stream:
                async for entry in stream:
                    if entry.at > self._last:
                        self._last = entry.at
                        yield entry
        except (Refused, ServiceError):
            await asyncio.sleep(_LOOK_S)
