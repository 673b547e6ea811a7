"""One engine of the process runtime, from its start to its proven exit."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Final

import psutil

from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.marks import Marks
from llm_backend.runtimes.pidfd import process_end
from llm_backend.runtimes.records import Records

_KILL_S: Final = 5.0
"""How long a launcher has to prove the end of what it killed, before it is killed itself."""


class Life:
    """Watches an engine's launcher, and stops it when asked.

    Attributes:
        engine: The engine.
        ended: Done when nothing of the engine is left; its result is how the engine ended.
    """

    def __init__(self, engine: Engine, marks: Marks, records: Records) -> None:
        self.engine = engine
        self._marks = marks
        self._records = records
        self._stopping: asyncio.Task[Exit] | None = None
        self.ended = asyncio.create_task(self._watch())

    def has_launcher(self) -> bool:
        """Return whether the launcher lives; blocks for an instant."""
        return self._marks.process(int(self.engine.handle), self.engine.instance) is not None

    async def stop(self, grace_s: float) -> Exit:
        """End the engine, or join the stop that is under way."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        return await asyncio.shield(self._stopping)

    async def close(self) -> None:
        """Stop watching."""
        tasks = [self.ended, *([self._stopping] if self._stopping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _watch(self) -> Exit:
        await process_end(int(self.engine.handle), self.has_launcher)
        # A launcher leaves nothing behind; one that was killed had no time to see to it.
        await self._marks.end(self.engine.instance)
        record = await asyncio.to_thread(self._records.load, self.engine.model)
        if record is None or record.instance != self.engine.instance:
            return Exit(None, "nobody saw how it ended")
        return record.exit()

    async def _stop(self, grace_s: float) -> Exit:
        # The launcher does the same by itself, with the grace of the launch plan: whichever is
        # shorter counts, and a gateway that dies here leaves a stop that goes on.
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGQUIT, _KILL_S)):
            await asyncio.to_thread(self._signal, number)
            if (await asyncio.wait({self.ended}, timeout=patience_s))[0]:
                return await self.ended
        await self._marks.end(self.engine.instance)
        return await self.ended

    def _signal(self, number: signal.Signals) -> None:
        launcher = self._marks.process(int(self.engine.handle), self.engine.instance)
        if launcher is not None:
            with suppress(psutil.NoSuchProcess):
                launcher.send_signal(number)
