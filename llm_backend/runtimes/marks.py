"""Marks: how the processes of an engine are told from all others.

Each process of an engine, the launcher included, carries two environment variables: which start
of an engine it belongs to, and which state directory that engine is recorded in. A mark is
inherited by whatever an engine starts, survives `setsid` and a double fork, and needs no record.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from llm_backend.runtimes.locks import holding_processes, is_held, read_holder

INSTANCE_VARIABLE: Final = "LLM_BACKEND_ENGINE"
STATE_VARIABLE: Final = "LLM_BACKEND_STATE"
_OWN_PREFIX: Final = "LLM_"
"""Of settings, which may hold passwords, and of what marks the gateway itself."""
_LOOK_S: Final = 0.02


class Marks:
    """Marks processes, finds them again and ends them.

    Args:
        state_dir: Only processes of this state directory are seen.
        lock_dir: Where the locks of the groups are: what holds the lock of an engine belongs to
            it, even where a program has overwritten its own environment.
    """

    def __init__(self, state_dir: Path, lock_dir: Path) -> None:
        self._state = str(state_dir.resolve())
        self._lock_dir = lock_dir

    def environment(self, instance: str, extra: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of an engine: this process's own, less what is the gateway's."""
        mine = {key: value for key, value in os.environ.items() if not key.startswith(_OWN_PREFIX)}
        return {
            **mine,
            # Keeps setproctitle, which vLLM uses, from overwriting the marks.
            "SPT_NOENV": "1",
            **extra,
            INSTANCE_VARIABLE: instance,
            STATE_VARIABLE: self._state,
        }

    def process(self, pid: int, instance: str) -> psutil.Process | None:
        """Return process `pid` if it belongs to `instance` and lives."""
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if self._instance_of(process) == instance:
                return process
        return None

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return every living marked process by its instance."""
        found: dict[str, list[psutil.Process]] = {}
        seen: set[int] = set()
        # A process may fork and leave while others are looked at: look until nobody is new.
        while new := set(psutil.pids()) - seen:
            for pid in new:
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if instance := self._instance_of(process):
                        found.setdefault(instance, []).append(process)
            seen |= new
        return found

    def _instance_of(self, process: psutil.Process) -> str | None:
        environment = process.environ()
        if environment.get(STATE_VARIABLE) != self._state:
            return None
        return environment.get(INSTANCE_VARIABLE)

    async def end(self, instance: str) -> None:
        """Kill all processes of `instance`; return when none is left and its lock is free.

        There is no deadline: a process that the kernel does not let go still holds the device.
        """
        while not await asyncio.to_thread(self._kill_all, instance):  # noqa: ASYNC110 - polls /proc
            await asyncio.sleep(_LOOK_S)

    def _kill_all(self, instance: str) -> bool:
        """Kill what there is of `instance`; return whether there was nothing."""
        locks = self._locks(instance)
        found = [process.pid for process in self.processes().get(instance, ())]
        for path in () if found else locks:
            found += holding_processes(path)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found and not locks

    def _locks(self, instance: str) -> list[Path]:
        """Return the held locks that `instance` took."""
        return [
            path
            for path in self._lock_dir.glob("engine-*.lock")
            if (holder := read_holder(path)) and holder.instance == instance and is_held(path)
        ]
