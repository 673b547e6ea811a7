"""The docker runtime: engines are containers that compose made, started and stopped by name.

What runs is what Docker says (`docker_guard.py`). A record of the last start of each model lets
the next gateway tell an engine that it may take over from everything else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from llm_backend.engines.base import LaunchPlan
from llm_backend.errors import EngineStartFailed, ServiceError
from llm_backend.runtimes import docker_logs
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.docker_api import DockerApi, Refused
from llm_backend.runtimes.docker_guard import Guard, why
from llm_backend.runtimes.docker_life import Life
from llm_backend.runtimes.docker_records import ContainerRecord, ContainerRecords, engine_of
from llm_backend.runtimes.docker_state import RECREATE, Container
from llm_backend.runtimes.locks import hold_engine_lock

T = TypeVar("T")
log = structlog.get_logger(__name__)


class DockerRuntime:
    """Starts, stops and polls engines that are containers.

    Args:
        host: Docker's address; None takes that of the environment, else the local socket.
        state_dir: Holds the engines' records. No two runtimes may use one at a time.
        lock_dir: Holds the locks of the exclusivity groups; shared by all gateways of a machine.
    """

    def __init__(self, host: str | None, state_dir: Path, lock_dir: Path) -> None:
        self._api = DockerApi(host)
        self._guard = Guard(self._api)
        self._records = ContainerRecords(state_dir.resolve())
        self._lock_dir = lock_dir.resolve()
        self._names: dict[str, str] = {}
        """The container of each model that was planned or started."""
        self._starts: set[asyncio.Task[Any]] = set()
        """Starts, and the ends of those that were cancelled, named after their models."""
        self._stops: set[asyncio.Task[Any]] = set()

    async def start(self, plan: LaunchPlan) -> Engine:
        """Start the container of `plan`; return as soon as Docker confirms that it runs.

        What runs under its name already is ended first. A call that is cancelled leaves no
        engine.

        Raises:
            EngineStartFailed: its lock is held, Docker cannot start it, or it already runs.
        """
        self._refuse_second(plan.model)
        starting = self._own(self._start(plan), self._starts, plan.model)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.shield(self._own(self._call_off(starting), self._starts, plan.model))
            raise

    async def stop(self, engine: Engine, grace_s: float) -> Exit:
        """End the engine; return only when the exit is proven.

        SIGTERM first, SIGKILL after `grace_s` seconds or those of the launch plan, whichever
        are fewer. Cancelling the call does not call off the stop; a second call joins it.

        Raises:
            ServiceError: Docker does not answer, or cannot end it. Calling again tries again.
        """
        life = self._guard.life(engine)
        if life.stopping is None or _failed(life.stopping):
            life.stopping = self._own(self._stop(life, grace_s), self._stops)
        return await asyncio.shield(life.stopping)

    async def rest(self, engine: Engine) -> None:
        """Let go of the lock of the engine's group, so that another one may start.

        Raises:
            ServiceError: the engine has ended or is being stopped, its record cannot be
                written, or Docker does not answer.
        """
        await asyncio.shield(self._own(self._rest(engine), self._starts, engine.model))

    async def rouse(self, engine: Engine) -> None:
        """Take the lock again, before the engine is woken.

        Raises:
            EngineStartFailed: another engine holds it; or the engine has ended or is being
                stopped, its record cannot be written, or Docker does not answer.
        """
        await asyncio.shield(self._own(self._rouse(engine), self._starts, engine.model))

    async def poll(self, engine: Engine) -> Exit | None:
        """Return how the engine ended; None while Docker has a process of it.

        Raises:
            ServiceError: Docker does not answer.
        """
        life = self._guard.life(engine)
        if not life.ended.done():
            life.compare(await self._guard.inspect(engine.handle))
        return life.ended.result() if life.ended.done() else None

    async def wait(self, engine: Engine) -> Exit:
        """Wait until Docker says that the engine has ended."""
        return await asyncio.shield(self._guard.life(engine).ended)

    async def survey(self, plans: Sequence[LaunchPlan]) -> Sequence[Engine]:
        """Find running engines of these plans; end all others of this state directory.

        From here on, the containers of these plans are guarded. With no plans, it leaves
        nothing.

        Raises:
            ServiceError: Docker does not answer, or cannot end one.
        """
        self._names |= {plan.model: _container(plan) for plan in plans}
        await self._guard.connect()
        records = {each.container: each for each in await asyncio.to_thread(self._records.all)}
        planned = {_container(plan): plan for plan in plans}
        self._guard.guarded |= planned.keys()
        found = await asyncio.gather(
            *(
                self._settle(name, planned.get(name), records.get(name))
                for name in planned.keys() | records.keys()
            )
        )
        return [engine for engine in found if engine is not None]

    async def log_tail(self, model: str, lines: int) -> list[str]:
        """Return the last log lines of a model's engine, running or not."""
        name = self._names.get(model)
        return await docker_logs.tail(self._api, name, lines) if name else []

    def follow_log(self, model: str, lines: int = 0) -> AsyncIterator[str]:
        """Yield the last `lines` log lines, then new ones as they come, until closed."""
        return docker_logs.follow(self._api, lambda: self._names.get(model), lines)

    async def close(self) -> None:
        """Let go of resources; running engines go on, and so does a stop in Docker's hands."""
        if self._starts:
            await asyncio.wait(self._starts)  # each has a deadline
        for task in self._stops:
            task.cancel()
        if self._stops:
            await asyncio.wait(self._stops)
        await self._guard.close()
        await asyncio.to_thread(self._api.close)

    # Starting

    def _refuse_second(self, model: str) -> None:
        """Forget ended engines of a model; refuse a start beside one that has not ended."""
        for instance, life in list(self._guard.lives.items()):
            if life.engine.model == model and life.ended.done():
                del self._guard.lives[instance]
        busy = {life.engine.model for life in self._guard.lives.values()}
        if model in busy | {task.get_name() for task in self._starts}:
            raise EngineStartFailed(
                f"The engine of {model} still runs, or is being started or stopped.",
                hint="See it with: llm-backend status",
            )

    async def _start(self, plan: LaunchPlan) -> Engine:
        name = self._names[plan.model] = _container(plan)
        self._guard.watch()
        async with self._guard.turn(name):
            self._guard.guarded.add(name)
            try:
                lock = await self._lock(plan.model, plan.group, name)
            except BlockingIOError as error:
                hint = "End that engine first: llm-backend stop"
                raise _start_failed(plan, str(error), hint) from None
            try:
                engine = await self._bring_up(plan, name)
            except BaseException as error:
                os.close(lock)
                raise _as_start_failure(plan, error) from error
            self._guard.lives[engine.instance] = Life(engine, lock)
            return engine

    async def _lock(self, model: str, group: str, container: str) -> int:
        what = f"the engine of {model} in container {container}"
        return await asyncio.to_thread(hold_engine_lock, self._lock_dir, group, what)

    async def _bring_up(self, plan: LaunchPlan, name: str) -> Engine:
        """Start a container, and prove that this start is what runs now."""
        # One that is still stopping would take the start as done, and end all the same.
        before = await self._guard.end(name, plan.stop_s)
        if before is None:
            raise _start_failed(plan, f"there is no container {name}", RECREATE)
        record = ContainerRecord.of(plan, name)
        await asyncio.to_thread(self._records.save, record)
        try:
            await self._api.start(name)
            after = await self._api.inspect(name)
        except Refused as error:
            raise _start_failed(plan, *why(name, error)) from error
        if after is None or after.instance == before.instance:
            raise _start_failed(plan, "Docker took the start and nothing came of it", RECREATE)
        await asyncio.to_thread(self._records.save, replace(record, started=after.instance))
        return engine_of(plan, name, after.instance)

    async def _call_off(self, starting: asyncio.Task[Engine]) -> None:
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await self.stop(starting.result(), 0)

    # Resting

    async def _rest(self, engine: Engine) -> None:
        async with self._guard.turn(engine.handle):
            life = self._guard.life(engine)
            try:
                await self._see_running(life)
                # First the record: nobody finds the lock free and an engine that seems awake.
                await self._note_rest(engine, resting=True)
            except (OSError, ServiceError) as error:
                text = f"The engine of {engine.model} cannot rest: {_reason(error)}."
                raise ServiceError(text, hint="End it with: llm-backend stop") from error
            life.release()

    async def _rouse(self, engine: Engine) -> None:
        async with self._guard.turn(engine.handle):
            life = self._guard.life(engine)
            try:
                await self._see_running(life)
                if life.lock is None:
                    await self._take_again(life)
            except (OSError, ServiceError) as error:
                text = f"The engine of {engine.model} cannot be roused: {_reason(error)}."
                hint = "See what runs with: llm-backend status"
                raise EngineStartFailed(text, hint=hint) from error

    async def _take_again(self, life: Life) -> None:
        engine = life.engine
        life.lock = await self._lock(engine.model, engine.group, engine.handle)
        try:
            await self._note_rest(engine, resting=False)
            _refuse_ended(life)
        except BaseException:
            life.release()
            raise

    async def _note_rest(self, engine: Engine, *, resting: bool) -> None:
        mark = self._records.mark_resting
        await asyncio.to_thread(mark, engine.model, engine.instance, resting=resting)

    async def _see_running(self, life: Life) -> None:
        """Raise ServiceError where an engine has ended or is being stopped."""
        life.compare(await self._guard.inspect(life.engine.handle))
        _refuse_ended(life)
        if life.stopping is not None:
            raise ServiceError("it is being stopped")

    # Ending

    async def _stop(self, life: Life, grace_s: float) -> Exit:
        engine = life.engine
        try:
            record = await asyncio.to_thread(
                self._records.mark_stopping, engine.model, engine.instance
            )
        except OSError as error:  # a full disk is no reason to let it run
            log.warning("engine_record_not_written", model=engine.model, reason=str(error))
            record = None
        life.compare(await self._guard.inspect(engine.handle))
        if not life.ended.done():
            patience_s = min(grace_s, record.stop_s) if record else grace_s
            life.compare(await self._guard.end(engine.handle, patience_s))
        return life.ended.result()

    # What an earlier gateway left

    async def _settle(
        self, name: str, plan: LaunchPlan | None, record: ContainerRecord | None
    ) -> Engine | None:
        """Take over what runs under a name, or end it."""
        async with self._guard.turn(name):
            container = await self._guard.inspect(name)
            if container is None or record is None or record.started != container.instance:
                grace_s = 0.0  # it is nobody's, and may run beside an engine
            elif plan and (adopted := await self._adopt(container, plan, record)):
                return adopted
            else:
                grace_s = min(each.stop_s for each in (plan, record) if each is not None)
            self._guard.compare(name, await self._guard.end(name, grace_s))
        if plan is None and record is not None:
            await asyncio.to_thread(self._records.forget, record.model)
        return None

    async def _adopt(
        self, container: Container, plan: LaunchPlan, record: ContainerRecord
    ) -> Engine | None:
        instance = container.instance
        if not container.serves or not record.serves(plan, instance):
            return None
        if instance in self._guard.lives:
            return self._guard.lives[instance].engine
        try:
            lock = await self._lock(plan.model, plan.group, record.container)
        except BlockingIOError as error:
            log.warning("engine_not_adopted", model=plan.model, reason=str(error))
            return None
        engine = engine_of(plan, record.container, instance)
        self._guard.lives[instance] = Life(engine, lock)
        return engine

    def _own(
        self, work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]], name: str | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task


def _container(plan: LaunchPlan) -> str:
    if plan.container is None:
        raise EngineStartFailed(
            f"The launch plan of {plan.model} names no container.",
            hint="Add `container` to its engine in the catalog.",
        )
    return plan.container


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _refuse_ended(life: Life) -> None:
    if life.ended.done():
        raise ServiceError(f"it has ended: {life.ended.result().reason}")


def _reason(error: OSError | ServiceError) -> str:
    return error.message.rstrip(".") if isinstance(error, ServiceError) else str(error)


def _as_start_failure(plan: LaunchPlan, error: BaseException) -> BaseException:
    if isinstance(error, ServiceError) and not isinstance(error, EngineStartFailed):
        return _start_failed(plan, error.message.rstrip("."), error.hint)
    return _start_failed(plan, str(error)) if isinstance(error, OSError) else error


def _start_failed(plan: LaunchPlan, reason: str, hint: str | None = None) -> EngineStartFailed:
    return EngineStartFailed(
        f"The engine of {plan.model} could not be started: {reason}.", hint=hint
    )
