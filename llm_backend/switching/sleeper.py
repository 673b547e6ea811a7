"""Puts the engine of one model to sleep and wakes it, and believes no status code about either.

While vLLM sleeps, its `/health` says 200 and a request hangs in silence, so nothing may be sent to
an engine whose wake is not proven. Proven means: it says itself that it is awake, it generates a
token, and it recites what it recited when it was first loaded. A wake can leave the weights of a
model damaged without any error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

import structlog

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines.base import EngineKind
from llm_backend.errors import LLMBackendError
from llm_backend.runtimes.base import Engine, Runtime
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe, NoAnswer
from llm_backend.switching.residency import Rung

POLL_S = 0.1
WARM_UP_S = 30.0
RECITAL_S = 30.0
SLACK_MIB = 256
"""A driver's own buffers come and go by so much."""

WAKE_CALLS: Mapping[Rung, tuple[tuple[str, Mapping[str, object] | None], ...]] = {
    1: (("/wake_up", None), ("/reset_prefix_cache", None)),
    # The weights were dropped: they are loaded before there is a cache to compute with.
    2: (
        ("/wake_up?tags=weights", None),
        ("/collective_rpc", {"method": "reload_weights"}),
        ("/wake_up?tags=kv_cache", None),
        ("/reset_prefix_cache", None),
    ),
}
"""What vLLM's developer routes are asked for, in this order, by level of sleep."""

log = structlog.get_logger(__name__)


class SleepFailed(Exception):
    """The engine did not do as it was told; the message says what it did, for people."""


class CanaryMismatch(SleepFailed):
    """The engine is awake and no longer the model that it was."""


class Sleeper:
    """Sleep and wake of one model's engine; see the module.

    Args:
        spec: Its entry of the catalog.
        kind: What differs between kinds of engines.
        runtime: The driver of its engine.
        probe: Asks engines.
        gate: Knows what is free on the devices.
    """

    def __init__(
        self,
        spec: ModelSpec,
        kind: EngineKind,
        runtime: Runtime,
        probe: EngineProbe,
        gate: MemoryGate,
    ) -> None:
        self._spec = spec
        self._kind = kind
        self._runtime = runtime
        self._probe = probe
        self._gate = gate
        self._free_before: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._recital: str | None = None
        self._instance = ""

    @property
    def may_sleep(self) -> bool:
        """Whether its engine is ever put to sleep."""
        return self._kind.sleeps and self._spec.residency != "stop"

    async def note_free(self) -> None:
        """Remember what is free on the devices before the engine starts."""
        if self.may_sleep:
            self._free_before = await self._gate.free_mib(self._spec.devices)

    async def learn(self, engine: Engine) -> None:
        """Have a healthy engine recite, to know it again after a wake.

        One that recites differently the second time cannot be known by this.
        """
        if not self.may_sleep or self._instance == engine.instance:
            return
        await self._note_taken()
        recitals = [await self._probe.recital(engine, self._kind, RECITAL_S) for _ in range(2)]
        steady = recitals[0] == recitals[1]
        if not steady:
            log.warning("canary_unsteady", model=self._spec.id)
        self._recital = recitals[0] if steady else None
        self._instance = engine.instance

    async def put_to_sleep(self, engine: Engine, rung: Rung) -> None:
        """Put an idle engine to sleep, and let its place in the group be taken.

        Raises:
            SleepFailed: it does not sleep, or keeps its memory; it is in no known state.
        """
        try:
            async with asyncio.timeout(self._spec.timeouts.sleep_s):
                await self.learn(engine)
                needed = await self._free_once_asleep(rung)
                await self._probe.command(engine, f"/sleep?level={rung}&mode=abort")
                if not await self._probe.is_asleep(engine):
                    raise SleepFailed("it said that it sleeps, and is awake")
                while await self._is_short(needed):  # noqa: ASYNC110  # a device tells nobody
                    await asyncio.sleep(POLL_S)
                await self._runtime.rest(engine)
        except (NoAnswer, LLMBackendError) as error:
            raise SleepFailed(str(error)) from error
        except TimeoutError:
            limit_s = self._spec.timeouts.sleep_s
            raise SleepFailed(f"it was not asleep after {limit_s:g} s") from None

    async def wake(self, engine: Engine, rung: Rung) -> None:
        """Wake an engine, and see that it is the model that it was.

        Raises:
            CanaryMismatch: it generates, but not what it did before.
            SleepFailed: it is not awake; it is in no known state.
        """
        try:
            async with asyncio.timeout(self._spec.timeouts.wake_s):
                await self._runtime.rouse(engine)
                for path, body in WAKE_CALLS[rung]:
                    await self._probe.command(engine, path, body)
                if await self._probe.is_asleep(engine):
                    raise SleepFailed("it said that it woke up, and sleeps")
                await self._prove(engine)
        except (NoAnswer, LLMBackendError) as error:
            raise SleepFailed(str(error)) from error
        except TimeoutError:
            limit_s = self._spec.timeouts.wake_s
            raise SleepFailed(f"it was not awake after {limit_s:g} s") from None

    async def _prove(self, engine: Engine) -> None:
        failure = await self._probe.answers(engine, self._kind, WARM_UP_S)
        if failure is not None:
            raise SleepFailed(f"asked for one token: {failure}")
        if self._recital is None:
            return
        recital = await self._probe.recital(engine, self._kind, RECITAL_S)
        if recital != self._recital:
            raise CanaryMismatch(
                f"it recites {(recital or '')[:40]!r} and recited {self._recital[:40]!r} before"
            )

    async def _note_taken(self) -> None:
        """Remember what the engine took of its devices; nothing of one that was taken over."""
        before, self._free_before = self._free_before, {}
        after = await self._gate.free_mib(before) if before else {}
        # No more than it reserves: others may have taken memory while it loaded.
        most = self._spec.memory_mib.awake or sys.maxsize
        self._taken = {device: min(before[device] - free, most) for device, free in after.items()}

    async def _free_once_asleep(self, rung: Rung) -> dict[str, int]:
        """Return what will be free at least, by device, when the engine sleeps.

        What others took or gave back since its start makes no difference.
        """
        kept = self._spec.memory_mib.asleep(rung) + SLACK_MIB
        free = await self._gate.free_mib(self._taken) if self._taken else {}
        return {device: mib + self._taken[device] - kept for device, mib in free.items()}

    async def _is_short(self, needed: Mapping[str, int]) -> bool:
        free = await self._gate.free_mib(needed) if needed else {}
        return any(free.get(device, mib) < mib for device, mib in needed.items())
