"""Brings the engine of one model up and down, and watches it in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines.base import EngineKind, LaunchPlan, Progress
from llm_backend.engines.launch_options import CATALOG, LaunchOptions
from llm_backend.errors import DeviceBusy, EngineGone, EngineStartFailed, LLMBackendError
from llm_backend.runtimes.base import Engine, Exit, Runtime
from llm_backend.switching.events import Broke, Hung
from llm_backend.switching.feed import Feed
from llm_backend.switching.history import DoubtFile, History
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.racing import racing
from llm_backend.switching.residency import WAYS_DOWN, WAYS_UP, Rung
from llm_backend.switching.sleeper import CanaryMismatch, Sleeper, SleepFailed
from llm_backend.switching.watch import WatchRules, manner_of, until_hung

TAIL_LINES = 15
WARM_UP_S = 120.0
FIRST_POLL_S, LONGEST_POLL_S = 0.05, 0.2
LONGEST_STOP_PAUSE_S = 30.0
HUNG_STOP_S = 3.0
"""An engine that has hung gets no more time than this between SIGTERM and SIGKILL."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How the engine of one model is launched in this set-up.

    Attributes:
        spec: Its entry of the catalog.
        kind: What differs between kinds of engines.
        runtime: The driver.
        plan: Makes the launch plan anew for each start; raises where weights are missing, or
            the options cannot be had.
        files: Returns the weight files that a start reads; may block.
    """

    spec: ModelSpec
    kind: EngineKind
    runtime: Runtime
    plan: Callable[[LaunchOptions], LaunchPlan]
    files: Callable[[], Iterable[Path]] = tuple


@dataclass(frozen=True, slots=True)
class Tools:
    """What keepers share."""

    gate: MemoryGate
    probe: EngineProbe
    feed: Feed
    history: History
    watch: WatchRules
    doubts: DoubtFile


class EngineKeeper:
    """The life of one model's engine.

    The switcher calls `bring_up`, `watch`, `put_to_sleep`, `watch_sleep` and `bring_down`, one at
    a time.

    Attributes:
        engine: The engine; None while there is none.
        rung: How deep it sleeps; None while it does not.
        options: Launch options that it was started with, over those of the catalog.
        due: Those that its next start has.
        step: The step that is under way; None between switches.
        step_since: When it began, on the event loop's clock.
        progress: What the engine last told of its load.
        steps_s: Seconds of each step of its latest way up.
    """

    def __init__(self, launch: Launch, tools: Tools) -> None:
        self.launch = launch
        self.engine: Engine | None = None
        self.rung: Rung | None = None
        self.options = self.due = CATALOG
        self.step: str | None = None
        self.step_since = 0.0
        self.progress: Progress | None = None
        self.steps_s: dict[str, float] = {}
        self._tools = tools
        self._planned: str | None = None
        self._starting: asyncio.Task[Engine] | None = None
        self._stop_s = launch.spec.timeouts.stop_s
        spec, kind, runtime = launch.spec, launch.kind, launch.runtime
        self._sleeper = Sleeper(spec, kind, runtime, tools.probe, tools.gate)

    @property
    def model(self) -> str:
        """The catalog id."""
        return self.launch.spec.id

    @property
    def fingerprint(self) -> str | None:
        """Of the engine; while there is none, of the catalog's last plan, if there was one."""
        return self._planned if self.engine is None else self.engine.fingerprint

    async def plan(self, options: LaunchOptions = CATALOG) -> LaunchPlan:
        """Make the launch plan; remember the fingerprint of the catalog's.

        Raises:
            LLMBackendError: weights, an interpreter or a file is missing, or these options
                cannot be had.
        """
        plan = await asyncio.to_thread(self.launch.plan, options)
        if not options:
            self._planned = plan.fingerprint
        return plan

    @property
    def is_doubtful(self) -> bool:
        """Whether an earlier gateway had put the engine to sleep, and did not see it awake."""
        return self.engine is not None and self.engine.instance in self._tools.doubts

    async def bring_up(self) -> bool:
        """Start the engine and see it answer; an adopted one that still loads is waited for.

        One that sleeps is woken, and started anew where that fails. When it is cancelled,
        `bring_down` must follow: an engine may be running.

        Returns:
            Whether it was to be woken, and was started anew.

        Raises:
            DeviceBusy: its memory is not free; it sleeps on if it slept, which `rung` tells.
            LLMBackendError: it could not be brought up; nothing of it is left.
        """
        self.steps_s, rung = {}, self.rung
        if rung is not None and await self._wake(rung):
            return False
        await self._start()
        return rung is not None

    async def _start(self) -> None:
        try:
            async with self._timed("start" if self.engine is None else "adopt"):
                if self.engine is None:
                    await self._launch()
                async with self._timed("load"):
                    await self._load()
                async with self._timed("warm_up"):
                    await self._warm_up()
                    await self._sleeper.learn(self._running())
        except Exception as error:
            await self.bring_down()
            raise self._as_failure(error) from error
        finally:
            self._begin(None)

    async def bring_down(self) -> None:
        """End the engine; return when its end is proven, or there was none."""
        async with self._timed("stop"):
            if self._starting is not None:
                # A start that was cancelled half-way may yet have an engine to show for it.
                await asyncio.wait({self._starting})
                if self._starting.exception() is None:
                    self.engine = self._starting.result()
                self._starting = None
            if self.engine is not None:
                await self._stop_until_proven(self.engine)
                self._tools.doubts.clear(self.engine.instance)
        self.engine = self.rung = None
        self.options = CATALOG
        self._stop_s = self.launch.spec.timeouts.stop_s
        self._begin(None)

    async def put_to_sleep(self, rung: Rung) -> bool:
        """Put the idle engine to sleep; one that does not fall asleep is ended.

        When it is cancelled, `bring_down` must follow.

        Returns:
            Whether it sleeps; else its end is proven.
        """
        engine = self._running()
        if not await self._attempted(WAYS_DOWN[rung], self._fall_asleep(engine, rung)):
            return False
        self.rung = rung
        self._begin(None)
        return True

    async def _fall_asleep(self, engine: Engine, rung: Rung) -> None:
        self._tools.doubts.note(engine.instance)
        await self._sleeper.put_to_sleep(engine, rung)

    async def _wake(self, rung: Rung) -> bool:
        engine = self._running()
        try:
            async with self._timed("memory"):
                await self._wait_for_memory(self.launch.spec.memory_mib.asleep(rung))
        except DeviceBusy:
            self._begin(None)
            raise
        if not await self._attempted(WAYS_UP[rung], self._sleeper.wake(engine, rung)):
            return False
        self._tools.doubts.clear(engine.instance)
        self.rung = None
        self._begin(None)
        return True

    async def _attempted(self, step: str, work: Coroutine[Any, Any, None]) -> bool:
        """Return whether it worked; an engine with which it did not is ended."""
        try:
            async with self._timed(step):
                await work
        except (SleepFailed, LLMBackendError, OSError) as error:
            self._give_up(step, error)
        except Exception:
            log.exception("rung_defect", model=self.model, step=step)
        else:
            return True
        await self.bring_down()
        return False

    def _give_up(self, step: str, error: Exception) -> None:
        """Tell that a rung failed; the next lower one follows."""
        why = "canary" if isinstance(error, CanaryMismatch) else "failed"
        log.warning("rung_failed", model=self.model, step=step, reason=str(error))
        self._tools.feed.publish(
            "step", model=self.model, step=f"{step}_{why}", elapsed_s=0.0, reason=str(error)
        )

    async def watch_sleep(self) -> Broke:
        """Return when the engine has ended in its sleep."""
        how = await self.launch.runtime.wait(self._running())
        text = f"The engine of {self.model} {how.reason} while it slept."
        tail = await self._tail_of(how)
        return Broke(self.model, EngineGone(text, retry_after_s=1, log_tail=tail))

    async def _stop_until_proven(self, engine: Engine) -> None:
        # No deadline on purpose: nothing may start before this engine's end is proven. Those
        # who wait for the device have deadlines of their own.
        pause = 1.0
        while True:
            try:
                await self.launch.runtime.stop(engine, self._stop_s)
            except Exception:
                log.exception("engine_stop_failed", model=self.model, retry_in_s=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_STOP_PAUSE_S)
            else:
                return

    async def watch(self, busy: Callable[[], bool]) -> Broke | Hung:
        """Return when the engine has ended by itself, or hung; say which and why."""
        engine = self._running()
        hang = until_hung(engine, self.launch.kind, self._tools.probe, busy, self._tools.watch)
        async with racing(self.launch.runtime.wait(engine), hang) as (exited, hung):
            await asyncio.wait({exited, hung}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return await self._ended(exited.result())
            why = hung.result()
            self._stop_s = min(self._stop_s, HUNG_STOP_S)
        self._tell("hung")
        tail = await self._tail()
        text = f"The engine of {self.model} hung: asked for one token, {why}. It is being ended."
        return Hung(self.model, EngineGone(text, retry_after_s=5, log_tail=tail))

    async def _ended(self, how: Exit) -> Broke:
        # The engine is still ours to name: until `Broke` is applied, leases on it are granted.
        tail = await self._tail_of(how)
        text = f"The engine of {self.model} {how.reason} while it was awake."
        return Broke(self.model, EngineGone(text, retry_after_s=1, log_tail=tail))

    async def _launch(self) -> None:
        async with self._timed("memory"):
            await self._wait_for_memory(0)
        await self._sleeper.note_free()
        async with self._timed("launch"):
            self.options = self.due
            plan = await self.plan(self.options)
            self._starting = asyncio.create_task(self.launch.runtime.start(plan))
            self.engine = await asyncio.shield(self._starting)
            self._starting = None
            self._tell("launched")

    async def _wait_for_memory(self, held_mib: int) -> None:
        spec = self.launch.spec
        needed = dict.fromkeys(spec.devices, max(0, spec.memory_mib.awake - held_mib))
        await self._tools.gate.wait_for(self.model, needed, spec.timeouts.memory_s)

    async def _load(self) -> None:
        engine = self._running()
        limit_s = self.launch.spec.timeouts.start_s
        try:
            async with (
                asyncio.timeout(limit_s),
                racing(self.launch.runtime.wait(engine), self._follow()) as (exited, _),
            ):
                await self._until_ready(engine, exited)
        except TimeoutError:
            raise EngineStartFailed(
                f"The engine of {self.model} was not ready {limit_s:g} s after its launch.",
                hint="models.<id>.timeouts.start_s sets this limit.",
                log_tail=await self._tail(),
            ) from None

    async def _until_ready(self, engine: Engine, exited: asyncio.Task[Exit]) -> None:
        pause = FIRST_POLL_S
        while not await self._tools.probe.ready(engine, self.launch.kind):
            await asyncio.wait({exited}, timeout=pause)
            if exited.done():
                self.engine = None
                how = exited.result()
                raise EngineStartFailed(
                    f"The engine of {self.model} {how.reason} before it was ready.",
                    log_tail=await self._tail_of(how),
                )
            pause = min(pause * 1.2, LONGEST_POLL_S)

    async def _follow(self) -> None:
        """Turn the engine's log lines into progress."""
        lines = self.launch.runtime.follow_log(self.model)
        async with contextlib.aclosing(lines) as follower:  # type: ignore[type-var]  # the protocol promises an iterator only
            async for line in follower:
                if progress := self.launch.kind.progress_of(line):
                    self.progress = progress
                    self._tools.feed.publish(
                        "progress",
                        model=self.model,
                        text=progress.text,
                        fraction=progress.fraction,
                    )

    async def _warm_up(self) -> None:
        # An engine can say that it is healthy and die of its first request.
        failure = await self._tools.probe.answers(self._running(), self.launch.kind, WARM_UP_S)
        if failure is not None:
            raise EngineStartFailed(
                f"The engine of {self.model} said that it was ready, but asked for one token: "
                f"{failure}.",
                log_tail=await self._tail(),
            )

    def _running(self) -> Engine:
        if self.engine is None:
            raise EngineStartFailed(f"There is no engine of {self.model}.")
        return self.engine

    def _as_failure(self, error: Exception) -> Exception:
        if isinstance(error, LLMBackendError):
            return error
        return EngineStartFailed(
            f"The engine of {self.model} could not be started: {type(error).__name__}."
        )

    async def _tail_of(self, how: Exit) -> list[str]:
        """Tell how an engine ended; return the last lines of its log."""
        tail = await self._tail()
        self._tell(manner_of(how, tail))
        return tail

    async def _tail(self) -> list[str]:
        return await self.launch.runtime.log_tail(self.model, TAIL_LINES)

    @contextlib.asynccontextmanager
    async def _timed(self, stage: str) -> AsyncIterator[None]:
        """Tell the feed of a stage, and remember how long it took when it succeeds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._begin(stage)
        yield
        seconds = loop.time() - began
        self.steps_s[stage] = seconds
        self._tools.history.add(self.model, stage, seconds)
        self._tools.feed.publish(
            "step", model=self.model, step=f"{stage}_done", elapsed_s=round(seconds, 3)
        )

    def _begin(self, step: str | None) -> None:
        self.step, self.progress = step, None
        self.step_since = asyncio.get_running_loop().time()
        if step is not None:
            self._tell(step)

    def _tell(self, step: str) -> None:
        self._tools.feed.publish("step", model=self.model, step=step, elapsed_s=0.0)
