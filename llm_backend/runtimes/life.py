"""One engine of the process runtime, from its start to its proven exit.

What a launcher is asked by a signal it answers through its record: one request at a time, in the
order of the calls, so that each answer is that of its request and the last call counts.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Final

import psutil

from llm_backend.errors import EngineStartFailed, ServiceError
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.marks import Marks
from llm_backend.runtimes.pidfd import process_end
from llm_backend.runtimes.records import EngineRecord, Records

_ANSWER_S: Final = 10.0
"""How long a launcher may take to answer; it needs some milliseconds, or half a second for a lock
that is held."""
_LOOK_S: Final = 0.01
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
        self._turn = asyncio.Lock()
        self._requests: set[asyncio.Task[EngineRecord | None]] = set()
        self.ended = asyncio.create_task(self._watch())

    def has_launcher(self) -> bool:
        """Return whether the launcher lives; blocks for an instant."""
        return self._marks.process(int(self.engine.handle), self.engine.instance) is not None

    async def stop(self, grace_s: float) -> Exit:
        """End the engine, or join the stop that is under way."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        return await asyncio.shield(self._stopping)

    async def rest(self) -> None:
        """Have the launcher let go of the lock.

        Raises:
            ServiceError: it cannot, or does not answer.
        """
        answer = await self._ask(signal.SIGUSR1)
        if answer is None or not answer.rests:
            raise ServiceError(
                f"The engine of {self.engine.model} cannot rest: {self._trouble(answer)}.",
                hint="End it with: llm-backend stop",
            )

    async def rouse(self) -> None:
        """Have the launcher take the lock again.

        Raises:
            EngineStartFailed: another engine holds it, or the launcher does not answer.
        """
        answer = await self._ask(signal.SIGUSR2)
        if answer is None or answer.rests:
            raise EngineStartFailed(
                f"The engine of {self.engine.model} cannot be roused: {self._trouble(answer)}.",
                hint="See what runs with: llm-backend status",
            )

    async def _ask(self, number: signal.Signals) -> EngineRecord | None:
        """Return the launcher's answer; None where none came in time, or will come."""
        # A request that was sent is not called back by whoever stops to wait for it.
        request = asyncio.create_task(self._request(number))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        await asyncio.wait({request}, timeout=_ANSWER_S)
        return request.result() if request.done() else None

    async def _request(self, number: signal.Signals) -> EngineRecord | None:
        async with self._turn:
            before = await self._record()
            if self._stopping or before is None or before.answers is None:
                return None
            await asyncio.to_thread(self._signal, number)
            while not self.ended.done():
                now = await self._record()
                if now and now.answers is not None and now.answers > before.answers:
                    return now
                await asyncio.wait({self.ended}, timeout=_LOOK_S)
        return None

    async def _record(self) -> EngineRecord | None:
        """Return the record of this start, if there is one."""
        record = await asyncio.to_thread(self._records.load, self.engine.model)
        return record if record and record.instance == self.engine.instance else None

    def _trouble(self, answer: EngineRecord | None) -> str:
        if self.ended.done():
            return f"it has ended: {self.ended.result().reason}"
        if self._stopping:
            return "it is being stopped"
        return answer.refusal if answer else "its launcher does not answer"

    async def close(self) -> None:
        """Stop watching."""
        tasks = [self.ended, *self._requests, *([self._stopping] if self._stopping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _watch(self) -> Exit:
        await process_end(int(self.engine.handle), self.has_launcher)
        # A launcher leaves nothing behind; one that was killed had no time to see to it.
        await self._marks.end(self.engine.instance)
        record = await self._record()
        if record is None:
            return Exit(None, "nobody saw how it ended")
        return record.exit(await asyncio.to_thread(self._records.why, record))

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
