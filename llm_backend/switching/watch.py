"""Tells a hung engine from a busy one: its `/health` says 200 in both cases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from llm_backend.engines.base import EngineKind
from llm_backend.runtimes.base import Engine
from llm_backend.switching.probe import EngineProbe


@dataclass(frozen=True, slots=True)
class WatchRules:
    """When an engine counts as hung.

    Attributes:
        stall_s: Without progress for this long, an engine that has work is asked for a token.
        probe_s: How long it may take for that token.
    """

    stall_s: float = 30.0
    probe_s: float = 15.0


async def until_hung(
    engine: Engine,
    kind: EngineKind,
    probe: EngineProbe,
    busy: Callable[[], bool],
    rules: WatchRules,
) -> str:
    """Return, once the engine has hung, what it failed to do.

    An engine hangs when it has work, its progress counter stands still for `stall_s` seconds
    (an engine without one is asked as often as that), and it does not generate one token within
    `probe_s`. All three are needed: a long prompt stops the tokens of everybody for a while.
    """
    loop = asyncio.get_running_loop()
    last_done: float | None = None
    quiet_since = loop.time()
    while True:
        await asyncio.sleep(rules.stall_s / 6)
        done = await probe.work_done(engine, kind) if busy() else None
        if not busy() or (done is not None and done != last_done):
            last_done, quiet_since = done, loop.time()
        elif loop.time() - quiet_since >= rules.stall_s:
            failure = await probe.answers(engine, kind, rules.probe_s)
            if failure is not None:
                return failure
            quiet_since = loop.time()
