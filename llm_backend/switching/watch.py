"""Tells a hung engine from a busy one, whose `/health` says 200 too, and how engines ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llm_backend.engines.base import EngineKind
from llm_backend.runtimes.base import Engine, Exit
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


def manner_of(how: Exit, tail: Sequence[str]) -> Literal["exited", "oom"]:
    """Return whether an engine ended for want of memory, of the device or of the machine.

    Args:
        how: How it ended. That a SIGKILL may have been for memory is a guess, and does not count.
        tail: Last lines of its log.
    """
    return "oom" if any(map(_OUT_OF_MEMORY.search, [how.reason, *tail])) else "exited"


_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory(?!\?)|OutOfMemory|cudaMalloc failed|failed to allocate|MemoryError",
    re.IGNORECASE,
)
