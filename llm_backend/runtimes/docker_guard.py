"""Watches containers: what became of ours, and what somebody else started.

Docker is the truth: whether an engine runs is what `inspect` says, and the event stream only
tells when to look. Whatever touches a container takes its turn, so that a look never falls into
the middle of a start; a run that is nobody's is ended as soon as it is seen.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Final

import structlog

from llm_backend.errors import ServiceError
from llm_backend.runtimes.base import Engine
from llm_backend.runtimes.docker_api import DockerApi, Refused
from llm_backend.runtimes.docker_life import Life
from llm_backend.runtimes.docker_state import Container, Event, why_not_started

_CONNECT_S: Final = 30.0
"""How long `connect` waits for Docker."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
"""Between two attempts to read Docker's events."""
_END_ATTEMPTS: Final = 3

log = structlog.get_logger(__name__)


class Guard:
    """Watches the containers of one runtime.

    Attributes:
        lives: Every start that is known, by instance.
        guarded: Containers that nobody but the runtime may start.
    """

    def __init__(self, api: DockerApi) -> None:
        self.lives: dict[str, Life] = {}
        self.guarded: set[str] = set()
        self._api = api
        self._turns: dict[str, asyncio.Lock] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._trouble = ""
        """Why no events are read."""

    async def end(self, name: str, grace_s: float) -> Container | None:
        """End whatever runs under a name; return the container as it is then.

        Raises:
            ServiceError: Docker does not answer, or cannot end it.
        """
        text = ""
        for attempt in range(_END_ATTEMPTS + 1):
            container = await self.inspect(name)
            if container is None or not container.alive:
                return container
            try:
                await self._api.stop(name, 0 if attempt else math.ceil(grace_s))
            except Refused as error:
                text = f" It says: {error.text}"
        raise ServiceError(f"Docker could not end container {name}.{text}", retry_after_s=5)

    async def inspect(self, name: str) -> Container | None:
        """Return a container; None where there is none of this name.

        Raises:
            ServiceError: Docker does not answer, or may not.
        """
        try:
            return await self._api.inspect(name)
        except Refused as error:
            sentence, hint = why(name, error)
            raise ServiceError(f"Docker shows nothing of {name}: {sentence}.", hint=hint) from error

    def watch(self) -> None:
        """Begin to watch, unless that is under way."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="docker events")

    async def connect(self) -> None:
        """Wait until events are read.

        Raises:
            ServiceError: Docker does not answer in time.
        """
        self.watch()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), _CONNECT_S)
        if not self._connected.is_set():
            raise ServiceError(f"Docker tells no events. {self._trouble}".rstrip(), retry_after_s=5)

    async def _watch(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self._api.events() as events:
                    # After the stream has begun, and before its first event is read: nothing
                    # can happen between the two unseen.
                    await self._look_at_all()
                    pause_s = _FIRST_PAUSE_S
                    self._trouble = ""
                    self._connected.set()
                    async for event in events:
                        self._notice(event)
            except (ServiceError, Refused) as error:
                if str(error) != self._trouble:
                    log.warning("docker_events_lost", reason=str(error))
                self._trouble = str(error)
            self._connected.clear()
            # The stream simply ends when Docker goes. Engines may go on without it.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _notice(self, event: Event) -> None:
        for life in self._living(event.name):
            life.notice(event)
        if event.name in self._turns:
            self._look_soon(event.name)

    async def _look_at_all(self) -> None:
        handles = {life.engine.handle for life in self.lives.values()}
        await asyncio.gather(*(self._look_once(name) for name in handles | self.guarded))

    async def _look(self, name: str) -> None:
        try:
            await self._look_once(name)
        except ServiceError as error:  # it is looked at again when Docker is back
            log.warning("container_not_seen", container=name, reason=error.message)

    async def _look_once(self, name: str) -> None:
        """See what became of a container; end a run that is nobody's."""
        async with self.turn(name):
            container = await self.inspect(name)
            self.compare(name, container)
            if container is None or not container.alive or name not in self.guarded:
                return
            if container.instance in self.lives and container.status != "restarting":
                return
            log.warning("foreign_start_ended", container=name, hint="llm-backend switch MODEL")
            self.compare(name, await self.end(name, 0))

    def compare(self, name: str, container: Container | None) -> None:
        """Tell the living starts of a name how its container looks."""
        for life in self._living(name):
            life.compare(container)

    def _living(self, name: str) -> list[Life]:
        return [
            life
            for life in self.lives.values()
            if life.engine.handle == name and not life.ended.done()
        ]

    def life(self, engine: Engine) -> Life:
        """Return what is known of an engine; a look finds out what was not seen of it."""
        self.watch()
        if engine.instance not in self.lives:
            self.lives[engine.instance] = Life(engine)
            self._look_soon(engine.handle)
        return self.lives[engine.instance]

    def turn(self, name: str) -> asyncio.Lock:
        """Return the lock of a container: one at a time starts, adopts or looks."""
        return self._turns.setdefault(name, asyncio.Lock())

    def _look_soon(self, name: str) -> None:
        task = asyncio.create_task(self._look(name))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def close(self) -> None:
        """Stop watching, and let go of the locks."""
        tasks = [*self._looks, *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for life in self.lives.values():
            life.close()
        self.lives.clear()


def why(name: str, error: Refused) -> tuple[str, str]:
    """Say what a refusal of Docker, or of the filter in front of it, means."""
    if error.status == 403:
        return (
            f"the filter in front of Docker does not allow container {name}",
            "Add the name to ENGINE_CONTAINERS of docker-filter in docker-compose.yml",
        )
    return why_not_started(error.text)
