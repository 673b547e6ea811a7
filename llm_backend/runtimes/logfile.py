"""Engine logs: opened by the runtime, appended to by the engine, read by anyone.

A log has two files: `<model>.log`, and `<model>.log.1` with what was there before the last start
or before the log grew over its limit.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

_LOOK_S: Final = 0.2
_BLOCK: Final = 64 * 1024
_LONGEST_LINE: Final = 64 * 1024


def previous(path: Path) -> Path:
    """Return the file that holds what a log held before."""
    return path.with_name(path.name + ".1")


def open_new(path: Path) -> int:
    """Put the old log aside and return a descriptor that appends to a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(previous(path))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # Prompts can end up in a log: it is its owner's alone.
    return os.open(path, flags, 0o600)


async def keep_small(path: Path, limit: int, every_s: float = 30.0) -> None:
    """Look every `every_s` seconds and put a log of over `limit` bytes aside, until cancelled.

    It is copied and emptied, because whoever appends to it has it open. What is written in
    between is lost.
    """
    while True:
        await asyncio.sleep(every_s)
        # A full disk must not end this, nor the one who logs.
        with suppress(OSError):
            await asyncio.to_thread(_cut, path, limit)


def _cut(path: Path, limit: int) -> None:
    if path.stat().st_size <= limit:
        return
    shutil.copyfile(path, previous(path))
    os.truncate(path, 0)


def tail(path: Path, lines: int) -> list[str]:
    """Return the last `lines` lines, blank ones left out; none where there is no log."""
    reader = _Reader(path)
    return (reader.tail(lines) + _text([reader.rest]))[-lines:]


async def follow(path: Path, lines: int) -> AsyncIterator[str]:
    """Yield the last `lines` lines, then new ones as they come, until closed.

    Goes on through a new start and through a log that was emptied because of its size.
    """
    reader = _Reader(path)
    for line in await asyncio.to_thread(reader.tail, lines):
        yield line
    while True:
        for line in await asyncio.to_thread(reader.read):
            yield line
        await asyncio.sleep(_LOOK_S)


class _Reader:
    """A place in a log. Nothing stays open between two reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self.rest = b""
        """The start of a line whose end was not written yet."""

    def tail(self, lines: int) -> list[str]:
        """Return the last whole lines and go to the end."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            self._inode = os.fstat(file.fileno()).st_ino
            self._offset = file.seek(0, os.SEEK_END)
            found = self._cut(_last_block(file, self._offset, lines))
            return found[-lines:] if lines else []
        return []

    def read(self) -> list[str]:
        """Return the whole lines that came since the last read."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        data = b""
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            if self._inode:
                data = self._read_from(previous(self._path)) + b"\n"
            self._inode, self._offset = stat.st_ino, 0
        return self._cut(data + self._read_from(self._path))

    def _read_from(self, path: Path) -> bytes:
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
            self._offset += len(data)
            return data
        return b""

    def _cut(self, data: bytes) -> list[str]:
        """Cut into lines; progress bars end theirs with a carriage return."""
        # The bar at the end makes the last piece a line of its own, be it empty or not.
        *lines, last = (self.rest + data + b"|").splitlines()
        self.rest = last[:-1]
        if len(self.rest) > _LONGEST_LINE:
            lines, self.rest = [*lines, self.rest], b""
        return _text(lines)


def _last_block(file: BinaryIO, size: int, lines: int) -> bytes:
    """Read as much from the end of a file as surely holds its last `lines` lines."""
    length = _BLOCK
    while True:
        start = max(0, size - length)
        file.seek(start)
        block = file.read(size - start)
        if not start or len(block.splitlines()) > lines + 1:
            return block
        length *= 2


def _text(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines if line.strip()]
