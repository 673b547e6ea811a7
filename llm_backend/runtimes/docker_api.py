"""The few calls of Docker's API that a runtime needs, off the event loop.

Containers go by the names of the launch plans, never by their ids: what stands in front of
Docker allows names. The SDK is synchronous: calls share a small pool of threads, and each
stream has a thread of its own, which ends when the stream is closed.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import docker
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from llm_backend.errors import ServiceError
from llm_backend.runtimes.docker_state import Container, Event

_CALLS: Final = 8
"""Calls at once."""
_ANSWER_S: Final = 60
"""How long Docker may take over a call, a stop's grace not counted."""
_OLDEST_API: Final = "1.41"
"""For the one question that has no version: which versions there are."""
_EVENTS: Final = ("start", "die", "oom", "destroy")
_NO_SUCH: Final = 404
_NOBODY_BEHIND: Final = (502, 503, 504)
"""What a filter answers while Docker is gone."""
_CUTS: Final = (OSError, ValueError, struct.error)
"""How a stream ends that was cut, by either side."""

T = TypeVar("T")


class Refused(Exception):
    """Docker, or the filter in front of it, answered a call with an error.

    Attributes:
        status: The HTTP status.
        text: What it said.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a container wrote in one go, mostly a line.

    Attributes:
        at: When, as Docker writes it: later entries compare greater.
        lines: Its lines, blank ones left out; progress bars end theirs with a carriage return.
    """

    at: str
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> LogEntry:
        """Read an entry with its time in front."""
        stamp, _, text = data.partition(b" ")
        lines = (line.decode(errors="replace") for line in text.splitlines() if line.strip())
        return cls(stamp.decode(errors="replace"), tuple(lines))


class DockerApi:
    """Docker's API.

    Every call raises ServiceError where Docker does not answer, and Refused where it answers
    with an error.

    Args:
        host: Docker's address, such as `tcp://docker-filter:2375`; None takes that of the
            environment (`DOCKER_HOST`), else the local socket.
    """

    def __init__(self, host: str | None) -> None:
        self._options: dict[str, Any] = {"base_url": host} if host else dict(kwargs_from_env())
        self._host = self._options.get("base_url") or "the local socket"
        self._pool = ThreadPoolExecutor(_CALLS, thread_name_prefix="docker")
        self._connecting = threading.Lock()
        self._client: docker.APIClient | None = None
        self._closed = False

    async def inspect(self, name: str) -> Container | None:
        """Return a container; None where there is none of this name."""
        try:
            answer = await self._call(lambda client: client.inspect_container(name))
        except Refused as error:
            if error.status == _NO_SUCH:
                return None
            raise
        return Container.parse(answer)

    async def start(self, name: str) -> None:
        """Start a container. One that runs stays as it is."""
        await self._call(lambda client: client.start(name))

    async def stop(self, name: str, grace_s: int) -> None:
        """End a container: SIGTERM, and SIGKILL after `grace_s` seconds.

        Docker goes on with it when the caller is gone.
        """
        await self._call(lambda client: client.stop(name, timeout=grace_s))

    async def logs(self, name: str, tail: int, since: float | None = None) -> list[LogEntry]:
        """Return the last `tail` log entries, none older than `since` (seconds of the epoch)."""
        data = await self._call(
            lambda client: client.logs(name, timestamps=True, tail=tail, since=since or None)
        )
        return [LogEntry.parse(line) for line in data.split(b"\n") if line]

    @asynccontextmanager
    async def follow(
        self, name: str, since: float | None
    ) -> AsyncIterator[AsyncIterator[LogEntry]]:
        """Read log entries as they come, until the container ends."""

        def begin(client: docker.APIClient) -> Any:
            return client.logs(name, stream=True, follow=True, timestamps=True, since=since)

        async with self._stream(begin) as stream:
            yield (LogEntry.parse(data) async for data in stream)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Event]]:
        """Read what happens to containers, until Docker ends."""
        filters = {"type": ["container"], "event": list(_EVENTS)}

        def begin(client: docker.APIClient) -> Any:
            client.ping()  # it has a time limit, which the next call has not
            return client.events(decode=True, filters=filters)

        async with self._stream(begin) as stream:
            yield (Event.parse(line) async for line in stream)

    def close(self) -> None:
        """Let go of threads and connections, blocking; calls under way end by themselves."""
        self._pool.shutdown(wait=False)
        with self._connecting:
            self._closed = True
            if self._client is not None:
                self._client.close()

    async def _call(self, work: Callable[[docker.APIClient], T]) -> T:
        if self._closed:
            raise self._gone("this runtime is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._answered, work)

    def _answered(self, work: Callable[[docker.APIClient], T]) -> T:
        """Call Docker in this thread, and say in our words what goes wrong."""
        try:
            return work(self._connected())
        except APIError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in _NOBODY_BEHIND:
                raise self._gone("the filter in front of it finds no Docker") from error
            raise Refused(status, str(error.explanation or error)) from error
        except (OSError, DockerException) as error:
            raise self._gone(_in_short(error)) from error

    def _gone(self, reason: str) -> ServiceError:
        return ServiceError(
            f"Docker does not answer at {self._host}: {reason}.",
            hint="See whether it runs: docker version",
            retry_after_s=5,
        )

    def _connected(self) -> docker.APIClient:
        with self._connecting:
            if self._closed:
                raise OSError("this runtime is closed")
            if self._client is None:
                # A proxy of the environment is for other hosts than this.
                with closing(docker.APIClient(version=_OLDEST_API, **self._options)) as first:
                    first.trust_env, first.timeout = False, _ANSWER_S
                    version = first.version(api_version=False)["ApiVersion"]
                client = docker.APIClient(version=version, timeout=_ANSWER_S, **self._options)
                client.trust_env = False
                self._client = client
            return self._client

    @asynccontextmanager
    async def _stream(
        self, begin: Callable[[docker.APIClient], Any]
    ) -> AsyncIterator[AsyncIterator[Any]]:
        thread = ThreadPoolExecutor(1, thread_name_prefix="docker-stream")
        opening = thread.submit(self._answered, begin)
        try:
            yield _items(await asyncio.wrap_future(opening), thread)
        finally:
            # Whether it is open, is being opened or waits for a byte: this ends its thread.
            opening.add_done_callback(_cut)
            thread.submit(_drain, opening)
            thread.shutdown(wait=False)


async def _items(stream: Iterator[Any], thread: ThreadPoolExecutor) -> AsyncIterator[Any]:
    while True:
        try:
            item = await asyncio.wrap_future(thread.submit(next, stream, None))
        except _CUTS:
            return
        if item is None:
            return
        yield item


def _cut(opening: Future[Any]) -> None:
    if opening.cancelled() or opening.exception() is not None:
        return
    with suppress(*_CUTS, AttributeError):  # of a stream that has ended by itself
        opening.result().close()


def _drain(opening: Future[Any]) -> None:
    """Read a stream that was cut to its end: only then its socket is closed."""
    if opening.cancelled() or opening.exception() is not None:
        return
    with suppress(*_CUTS, AttributeError):
        for _ in opening.result():
            pass


def _in_short(error: Exception) -> str:
    """Return the innermost reason of nested errors."""
    reason: BaseException = error
    while reason.__context__ is not None:
        reason = reason.__context__
    return str(getattr(reason, "strerror", None) or reason)
