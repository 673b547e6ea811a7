"""Kernel file locks, and what their files tell about the holder.

A lock of flock(2) lives as long as a process that holds or inherited it, so that nothing has to
be cleaned up after a crash. The file's text only tells who took it last.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llm_backend.engines.base import file_name
from llm_backend.errors import AlreadyRunning

GATEWAY_LOCK = "gateway.lock"
_PATIENCE_S: Final = 0.5
"""How long a held lock is tried again: whoever only looks at a lock holds it for an instant."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who took a lock last.

    Attributes:
        pid: Its process id at that time.
        what: What it is, for people: "the gateway", "the engine of qwen-14b".
        instance: Which start of an engine it is; empty for a gateway.
    """

    pid: int
    what: str
    instance: str = ""


def engine_lock(lock_dir: Path, group: str) -> Path:
    """Return the lock file of an exclusivity group."""
    return lock_dir / f"engine-{file_name(group)}.lock"


def read_holder(path: Path) -> Holder | None:
    """Return who took the lock last, whether or not it is held still."""
    try:
        note = json.loads(path.read_bytes())
        return Holder(int(note["pid"]), str(note["what"]), str(note.get("instance", "")))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Return whether any process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at a free lock don't take each other for its holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holding_processes(path: Path) -> list[int]:
    """Return the processes that hold the lock, inherited or not; none where /proc is missing.

    Who only looks whether it is held (`is_held`) is left out.
    """
    name = str(path.resolve())
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()) == name and _is_locked(link):
                found.add(int(link.parts[2]))
    return sorted(found)


def _is_locked(link: Path) -> bool:
    # The kernel shows a lock only with the descriptors that hold it, not with every open file.
    info = link.parent.parent / "fdinfo" / link.name
    lines = info.read_text().splitlines()
    return any(line.startswith("lock:") and " WRITE " in line for line in lines)


def hold_engine_lock(lock_dir: Path, group: str, what: str) -> int:
    """Take the lock of an exclusivity group; blocks for half a second where it is held.

    Args:
        lock_dir: Where the locks are.
        group: The group.
        what: Who takes it, for people.

    Returns:
        A descriptor: the lock is held until it is closed.

    Raises:
        BlockingIOError: it is held; the message says by whom.
    """
    lock_dir.mkdir(parents=True, exist_ok=True)
    path = engine_lock(lock_dir, group)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _take_soon(descriptor)
        _sign(descriptor, what)
    except BlockingIOError:
        os.close(descriptor)
        holder = read_holder(path)
        who = f"{holder.what} (pid {holder.pid})" if holder else "another process"
        raise BlockingIOError(f"the lock of group {group} is held by {who}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take_soon(descriptor: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _sign(descriptor: int, what: str) -> None:
    note = json.dumps({"pid": os.getpid(), "what": what})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, note.encode(), 0)


@contextmanager
def gateway_lock(lock_dir: Path) -> Iterator[None]:
    """Hold the lock that only one gateway of a machine can have.

    Raises:
        AlreadyRunning: another gateway has it.
    """
    lock_dir.mkdir(parents=True, exist_ok=True)
    path = lock_dir / GATEWAY_LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _take(descriptor, path)
        _sign(descriptor, "the gateway")
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = read_holder(path)
        who = f"pid {holder.pid}" if holder else "pid unknown"
        raise AlreadyRunning(
            f"Another gateway ({who}) holds {path}.", hint="Stop it with: llm-backend stop"
        ) from None
