"""Reads the weights of the next model into the page cache while the last one leaves the device.

The start that follows then finds on no disk what it has in memory. Everything here happens on
the event loop but the reading, which is a thread's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from llm_backend.switching.entry import Entry
from llm_backend.switching.states import AT_REST, State
from llm_backend.weights.page_cache import ReadAhead

LEAVING = frozenset({State.DRAINING, State.STOPPING})
LONGEST_CHUNK_S = 5.0
"""Only a disk that hangs takes so long to be stopped."""

log = structlog.get_logger(__name__)


class Warming:
    """At most one pass over the files of a model for each exclusivity group.

    Args:
        files: Returns the weight files of each model; may block.
        entries: Where each model stands.
    """

    def __init__(
        self,
        files: Mapping[str, Callable[[], Iterable[Path]]],
        entries: Mapping[str, Entry],
    ) -> None:
        self._files = files
        self._entries = entries
        self._wanted: dict[str, str | None] = {}
        self._passes: dict[str, tuple[str, ReadAhead]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, group: str, model: str | None) -> None:
        """Take note of the model that a group is to have."""
        self._wanted[group] = model
        self.review()

    def review(self) -> None:
        """Begin with what has become of use; stop what no longer is."""
        for group, model in self._wanted.items():
            useful = model if model is not None and self._is_of_use(model) else None
            current = self._passes.get(group, (None, None))[0]
            if useful != current:
                self._stop(group)
                if useful is not None:
                    self._begin(group, useful)

    def _begin(self, group: str, model: str) -> None:
        ahead = ReadAhead()
        self._passes[group] = model, ahead
        task = asyncio.create_task(self._read(model, ahead), name=f"read ahead {model}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop everything."""
        self._wanted.clear()
        for group in list(self._passes):
            self._stop(group)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LONGEST_CHUNK_S)

    def _is_of_use(self, model: str) -> bool:
        entry = self._entries[model]
        # At level 1 the weights are in memory as they are; at level 2 they are read again.
        from_disk = entry.state in AT_REST or (entry.state is State.ASLEEP and entry.rung == 2)
        return from_disk and any(e.state in LEAVING for e in self._entries.values())

    def _stop(self, group: str) -> None:
        _, ahead = self._passes.pop(group, (None, None))
        if ahead is not None:
            ahead.stop()

    async def _read(self, model: str, ahead: ReadAhead) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.to_thread(ahead.run, self._files[model])
        except Exception:  # the start goes its own way, and says what is wrong if it is needed
            log.exception("read_ahead_failed", model=model)
            return
        log.info(
            "read_ahead",
            model=model,
            mib=ahead.read >> 20,
            skipped=[str(path) for path in ahead.skipped],
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )
