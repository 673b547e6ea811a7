"""One start of a container, from its confirmation to its proven exit."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.docker_state import Container, Event, exit_of

_KILLED: Final = 137
"""Exit status after SIGKILL."""


class Life:
    """What is known of a running engine, and how it ended once it has.

    Attributes:
        engine: The engine.
        ended: Done when Docker has said that it is over; its result is how it ended.
        stopping: The stop that is under way, or was.
        lock: Holds the lock of the engine's group; None while it rests and when it has ended.
    """

    def __init__(self, engine: Engine, lock: int | None = None) -> None:
        self.engine = engine
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.stopping: asyncio.Task[Exit] | None = None
        self.lock = lock
        self._oom = False
        self._code: int | None = None

    def notice(self, event: Event) -> None:
        """Remember an event, if it is about this start and not an earlier one."""
        if not event.is_about(self.engine.instance):
            return
        if event.action == "oom":
            self._oom = True
        elif event.action == "die":
            self._code = event.code

    def compare(self, container: Container | None) -> None:
        """See whether a look at the container proves that this start is over."""
        same = container is not None and container.instance == self.engine.instance
        if self.ended.done() or (container is not None and same and container.alive):
            return
        code, oom = self._code, self._oom
        if container is not None and same:
            # Flag and status are those of this run; the flag alone may be older (20.10).
            code, oom = container.code, oom or (container.oom and container.code == _KILLED)
        self.ended.set_result(exit_of(code, oom=oom, stopped=self.stopping is not None))
        self.release()

    def close(self) -> None:
        """Let go: nobody waits for the end any more, and nobody holds the group's lock."""
        self.ended.cancel()
        self.release()

    def release(self) -> None:
        """Let go of the lock of the engine's group."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
