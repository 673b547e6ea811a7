"""One task a model: whatever takes long is done in it, and what came of it is told as an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import structlog

from llm_backend.errors import InternalError, LLMBackendError
from llm_backend.runtimes.base import Engine, Runtime
from llm_backend.switching import events as ev
from llm_backend.switching.entry import Entry
from llm_backend.switching.history import History
from llm_backend.switching.keeper import EngineKeeper
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.residency import Rung

log = structlog.get_logger(__name__)


class EngineTasks:
    """Brings engines up and down for the switcher; see the module.

    A new task of a model follows the one before it, which it may call off.

    Args:
        keepers: By model.
        entries: Where each model stands, to be looked at.
        apply: Tells the scheduler of an event.
        history: Saved after a change that took time.
    """

    def __init__(
        self,
        keepers: Mapping[str, EngineKeeper],
        entries: Mapping[str, Entry],
        apply: Callable[[ev.Event], None],
        history: History,
    ) -> None:
        self._keepers = keepers
        self._entries = entries
        self._apply = apply
        self._history = history
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, model: str) -> None:
        """Bring an engine up, or wake it, and watch it until it ends, hangs or is to leave."""
        keeper, previous = self._keepers[model], self._tasks.get(model)
        self._run(model, self._live(keeper, previous))

    def watch(self, model: str) -> None:
        """Watch an engine that was taken over awake."""
        self._run(model, self._watch(self._keepers[model]))

    def stop(self, model: str) -> None:
        """Call off whatever the model's task does, and bring its engine down."""
        self._run(model, self._end(self._keepers[model], self._tasks.get(model)))

    def sleep(self, model: str, rung: Rung) -> None:
        """Put an engine to sleep, and watch over its sleep."""
        self._run(model, self._rest(self._keepers[model], rung, self._tasks.get(model)))

    async def survey(self) -> list[Engine]:
        """Return the engines that an earlier gateway left."""
        found: list[Engine] = []
        for runtime, keepers in self._by_runtime():
            plans = []
            for keeper in keepers:
                try:
                    plans.append(await keeper.plan())
                except LLMBackendError:
                    continue  # without weights there is nothing to adopt
            found.extend(await runtime.survey(plans))
        return found

    async def parts(self, probe: EngineProbe) -> dict[str, Mapping[str, str]]:
        """Return by model what the processes of engines that have several say of their health."""
        kinds = {m: k.launch.kind for m, k in self._keepers.items() if k.launch.kind.health}
        engines = {m: e for m in kinds if (e := self._keepers[m].engine) is not None}
        told = await asyncio.gather(*(probe.health(e, kinds[m]) for m, e in engines.items()))
        return dict(zip(engines, told, strict=True))

    async def close(self) -> None:
        """Let go; running engines go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _run(self, model: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[model] = asyncio.create_task(work, name=f"engine {model}")

    async def _live(self, keeper: EngineKeeper, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            if keeper.rung is not None:
                previous.cancel()  # it watched the sleep
            await asyncio.wait({previous})
        try:
            rung_lost = await keeper.bring_up()
        except LLMBackendError as error:
            await self._not_up(keeper, error)
            return
        except Exception:
            log.exception("engine_start_defect", model=keeper.model)
            self._apply(ev.Broke(keeper.model, InternalError("The start failed by a defect.")))
            return
        self._apply(ev.Ready(keeper.model, rung_lost))
        await self._history.save()
        await self._watch(keeper)

    async def _not_up(self, keeper: EngineKeeper, error: LLMBackendError) -> None:
        if keeper.rung is None:
            self._apply(ev.Broke(keeper.model, error))
            return
        self._apply(ev.Unwoken(keeper.model, error))
        await self._watch_sleep(keeper)

    async def _watch(self, keeper: EngineKeeper) -> None:
        entry = self._entries[keeper.model]
        try:
            event = await keeper.watch(lambda: entry.leases > 0)
        except Exception:  # unwatched, it could end without anybody's notice
            log.exception("engine_watch_defect", model=keeper.model)
            event = ev.Hung(keeper.model, InternalError("The engine could not be watched."))
        if isinstance(event, ev.Broke):
            keeper.engine = None
        self._apply(event)

    async def _end(self, keeper: EngineKeeper, previous: asyncio.Task[None] | None) -> None:
        await _called_off(previous)
        await keeper.bring_down()
        self._apply(ev.Stopped(keeper.model))

    async def _rest(
        self, keeper: EngineKeeper, rung: Rung, previous: asyncio.Task[None] | None
    ) -> None:
        await _called_off(previous)
        if not await keeper.put_to_sleep(rung):
            self._apply(ev.Stopped(keeper.model))
            return
        self._apply(ev.Slept(keeper.model))
        await self._history.save()
        await self._watch_sleep(keeper)

    async def _watch_sleep(self, keeper: EngineKeeper) -> None:
        event = await keeper.watch_sleep()
        keeper.engine = keeper.rung = None
        self._apply(event)

    def _by_runtime(self) -> Iterator[tuple[Runtime, list[EngineKeeper]]]:
        runtimes = {id(k.launch.runtime): k.launch.runtime for k in self._keepers.values()}
        for key, runtime in runtimes.items():
            yield runtime, [k for k in self._keepers.values() if id(k.launch.runtime) == key]


async def _called_off(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
