"""Waiting on the event loop until a process, child or not, has ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_LOOK_S: Final = 0.1


async def readable(descriptor: int) -> None:
    """Wait until a descriptor has something to read, or has come to its end."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def process_end(pid: int, is_it: Callable[[], bool]) -> None:
    """Wait until a process has ended; return at once where `is_it` says that it is not there.

    Args:
        pid: The process.
        is_it: Called in a thread, whether `pid` still is the process that is meant: numbers are
            used again.
    """
    descriptor = _open(pid)
    try:
        # Asked after the descriptor is there: it stays with the process that was asked about.
        while await asyncio.to_thread(is_it):
            await (readable(descriptor) if descriptor is not None else asyncio.sleep(_LOOK_S))
    finally:
        if descriptor is not None:
            os.close(descriptor)
    # Orphans become children of this process where it is the first one of a container.
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait


def _open(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, if there can be one."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None
