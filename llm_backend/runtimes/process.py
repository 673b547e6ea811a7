"""The process runtime: engines are processes of this machine, each under a launcher.

The launcher (`launcher.py`) holds the kernel lock of the engine's group, so that a second engine
of the group cannot even start while the first is not at rest; it outlives the gateway, ends the
engine with all its descendants, and keeps the engine's record. This module starts launchers,
watches them and finds them again.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from llm_backend.engines.base import LaunchPlan, file_name
from llm_backend.errors import EngineStartFailed
from llm_backend.runtimes import launcher, logfile
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.command_line import command_line, environment, taken
from llm_backend.runtimes.life import Life
from llm_backend.runtimes.locks import engine_lock
from llm_backend.runtimes.marks import Marks
from llm_backend.runtimes.pidfd import readable
from llm_backend.runtimes.ports import free_port
from llm_backend.runtimes.records import EngineRecord, Records, dump

LOG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes at which an engine's log moves to `.1`: on disk it takes about twice this."""
_LAUNCH_S: Final = 20.0
"""How long a launcher may take to execute an engine; it needs some 30 ms."""
_PROOF_S: Final = 1.0
"""How long `poll` waits for what a dead launcher left to be ended."""
_TAIL_LINES: Final = 20
_HINTS: Final = {
    launcher.LOCK_HELD: "End that engine first: llm-backend stop",
    launcher.CANNOT_RUN: "Check what the catalog says of it: llm-backend config check",
}
_TAKEN: Final = "End that process, or give the catalog another port: llm-backend config check"
T = TypeVar("T")


class ProcessRuntime:
    """Starts, stops and polls engines that are processes of this machine.

    Args:
        state_dir: Holds the engines' records and logs. No two runtimes may use one at a time.
        lock_dir: Holds the locks of the exclusivity groups; shared by all gateways of a machine.
        log_limit: Size in bytes at which a log moves to `.1`.
    """

    def __init__(self, state_dir: Path, lock_dir: Path, log_limit: int = LOG_LIMIT) -> None:
        state_dir, self._lock_dir = state_dir.resolve(), lock_dir.resolve()
        self._logs = state_dir / "logs"
        self._log_limit = log_limit
        self._records = Records(state_dir)
        self._marks = Marks(state_dir, self._lock_dir)
        self._lives: dict[str, Life] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        """Starts, and the ends of those that were cancelled, named after their models."""

    async def start(self, plan: LaunchPlan) -> Engine:
        """Start the engine of `plan`; return as soon as it is executed.

        A call that is cancelled leaves no engine.

        Raises:
            EngineStartFailed: its lock is held, it cannot be executed, or it already runs.
        """
        self._refuse_second(plan.model)
        starting = self._own(self._start(plan), plan.model)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.shield(self._own(self._call_off(starting), plan.model))
            raise

    async def stop(self, engine: Engine, grace_s: float) -> Exit:
        """End the engine and all that it started; return only when the exit is proven.

        SIGTERM first, SIGKILL after `grace_s` seconds or those of the launch plan, whichever
        are fewer. Cancelling the call does not call off the stop; a second call joins it.
        """
        return await self._life(engine).stop(grace_s)

    async def rest(self, engine: Engine) -> None:
        """Let go of the lock of the engine's group, so that another one may start.

        Raises:
            ServiceError: the engine has ended or is being stopped, or its launcher does not
                answer within 10 s.
        """
        await self._life(engine).rest()

    async def rouse(self, engine: Engine) -> None:
        """Take the lock again, before the engine is woken.

        Raises:
            EngineStartFailed: another engine holds it; or the engine has ended or is being
                stopped, or its launcher does not answer within 10 s.
        """
        await self._life(engine).rouse()

    async def poll(self, engine: Engine) -> Exit | None:
        """Return how the engine ended; None while anything of it is left."""
        life = self._life(engine)
        runs = await asyncio.to_thread(life.has_launcher)
        await asyncio.wait({life.ended}, timeout=0 if runs else _PROOF_S)
        return life.ended.result() if life.ended.done() else None

    async def wait(self, engine: Engine) -> Exit:
        """Wait until the engine and all that it started have ended."""
        return await asyncio.shield(self._life(engine).ended)

    async def survey(self, plans: Sequence[LaunchPlan]) -> Sequence[Engine]:
        """Find running engines of these plans; end all others of this state directory.

        With no plans, it leaves nothing.
        """
        records = await asyncio.to_thread(self._records.all)
        marked = await asyncio.to_thread(self._marks.processes)
        known = {record.instance: record for record in records}
        planned = {plan.model: plan for plan in plans}
        kept: list[Engine] = []
        ends: list[Coroutine[Any, Any, object]] = []
        for instance in marked.keys() | {each.instance for each in records if each.code is None}:
            record = known.get(instance)
            if record is None or record.pid not in {each.pid for each in marked.get(instance, ())}:
                ends.append(self._marks.end(instance))
            elif (plan := planned.get(record.model)) and record.serves(plan):
                kept.append(self._life(record.engine(plan)).engine)
            else:
                ends.append(self.stop(record.engine(), record.stop_s))
        await asyncio.gather(*ends)
        return kept

    async def log_tail(self, model: str, lines: int) -> list[str]:
        """Return the last log lines of a model's engine, running or not."""
        return await asyncio.to_thread(logfile.tail, self._log(model), lines)

    def follow_log(self, model: str, lines: int = 0) -> AsyncIterator[str]:
        """Yield the last `lines` log lines, then new ones as they come, until closed."""
        return logfile.follow(self._log(model), lines)

    async def close(self) -> None:
        """Let go of resources; running engines go on."""
        if self._tasks:
            await asyncio.wait(self._tasks)  # each has a deadline
        lives = list(self._lives.values())
        self._lives.clear()
        for life in lives:
            await life.close()

    def _own(self, work: Coroutine[Any, Any, T], model: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=model)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _log(self, model: str) -> Path:
        return self._logs / f"{file_name(model)}.log"

    def _life(self, engine: Engine) -> Life:
        if engine.instance not in self._lives:
            self._lives[engine.instance] = Life(engine, self._marks, self._records)
        return self._lives[engine.instance]

    def _refuse_second(self, model: str) -> None:
        """Forget ended engines of a model; refuse a start beside one that has not ended."""
        for instance, life in list(self._lives.items()):
            if life.engine.model == model and life.ended.done():
                del self._lives[instance]
        busy = {life.engine.model for life in self._lives.values()}
        if model in busy | {task.get_name() for task in self._tasks}:
            raise EngineStartFailed(
                f"The engine of {model} still runs, or is being started or stopped.",
                hint="See it with: llm-backend status",
            )

    async def _start(self, plan: LaunchPlan) -> Engine:
        instance = uuid4().hex
        if reason := await asyncio.to_thread(taken, plan):
            raise _start_failed(plan, reason, _TAKEN)
        try:
            record = _new_record(plan, instance)
            pid = await self._launch(plan, record)
        except (OSError, ValueError, subprocess.TimeoutExpired, EngineStartFailed) as error:
            await self._marks.end(instance)
            if isinstance(error, EngineStartFailed):
                raise
            raise _start_failed(plan, _describe(error)) from error
        return self._life(replace(record, pid=pid).engine(plan)).engine

    async def _launch(self, plan: LaunchPlan, record: EngineRecord) -> int:
        """Start a launcher; return its process id once the engine is executed."""
        answer_end, report_end = os.pipe()
        try:
            try:
                await asyncio.to_thread(self._spawn, plan, record, report_end)
            finally:
                os.close(report_end)
            async with asyncio.timeout(_LAUNCH_S):
                await readable(answer_end)
            answer = json.loads(os.read(answer_end, 65_536) or b"null")
        finally:
            os.close(answer_end)
        if answer is None:
            tail = await self.log_tail(plan.model, _TAIL_LINES)
            raise _start_failed(plan, "its launcher ended at once", log_tail=tail)
        if "error" in answer:
            raise _start_failed(plan, answer["error"], _HINTS.get(answer["status"]))
        return int(answer["pid"])

    def _spawn(self, plan: LaunchPlan, record: EngineRecord, report_end: int) -> None:
        self._lock_dir.mkdir(parents=True, exist_ok=True)
        log_path = self._log(plan.model)
        spec = {
            "record": dump(record),
            "record_path": str(self._records.path(plan.model)),
            "lock_path": str(engine_lock(self._lock_dir, plan.group)),
            "log_path": str(log_path),
            "log_limit": self._log_limit,
            "argv": command_line(plan, record, self._records.why_path(plan.model)),
            "cwd": plan.cwd,
            "report_fd": report_end,
        }
        log = logfile.open_new(log_path)
        try:
            # What is started here only forks the launcher, and ends.
            subprocess.run(
                [sys.executable, "-I", "-S", launcher.__file__, json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._marks.environment(record.instance, environment(plan)),
                pass_fds=(report_end,),
                start_new_session=True,
                timeout=_LAUNCH_S,
                check=False,  # a launcher that fails gives no answer
            )
        finally:
            os.close(log)

    async def _call_off(self, starting: asyncio.Task[Engine]) -> None:
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await self.stop(starting.result(), 0)


def _new_record(plan: LaunchPlan, instance: str) -> EngineRecord:
    return EngineRecord(
        instance=instance,
        model=plan.model,
        group=plan.group,
        fingerprint=plan.fingerprint,
        host=plan.host,
        port=plan.port or free_port(plan.host),
        served_name=plan.served_name,
        stop_s=plan.stop_s,
        helpers=tuple((h.name, h.port or free_port(plan.host)) for h in plan.helpers),
    )


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return f"its launcher did not answer within {_LAUNCH_S:g} s"
    return str(error)


def _start_failed(
    plan: LaunchPlan, reason: str, hint: str | None = None, log_tail: Sequence[str] = ()
) -> EngineStartFailed:
    message = f"The engine of {plan.model} could not be started: {reason}."
    return EngineStartFailed(message, hint=hint, log_tail=log_tail)
