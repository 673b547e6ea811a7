"""Reads weight files into the page cache, so that an engine that loads them soon finds them there.

It is a favour to a start that has not begun: it takes what the disk and the memory have to spare,
and can be stopped at any time.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

CHUNK: Final = 4 * 1024 * 1024
"""Bytes between two looks at whether to stop."""

SHARE: Final = 0.5
"""The share of the available memory that may be filled: what engines need must stay."""

_FORMATS: Final = ("*.safetensors", "*.gguf", "*.bin", "*.pt")
"""Kinds of weight files, as engines choose among them: the first that is there is loaded."""


def available_memory() -> int:
    """Return the bytes of RAM that programs could have without swapping."""
    return int(psutil.virtual_memory().available)


def weight_files(path: Path) -> list[Path]:
    """Return the files that an engine loads from a file or a directory, in its order."""
    if not path.is_dir():
        return [path]
    found = (sorted(path.glob(pattern)) for pattern in _FORMATS)
    return next((files for files in found if files), [])


class ReadAhead:
    """One pass over some files.

    Args:
        share: Of the available memory, how much may be filled.
        available: Returns the bytes of memory that are available.

    Attributes:
        read: Bytes that were read so far.
        skipped: Files that were left out: they do not fit, or cannot be read.
    """

    def __init__(
        self, share: float = SHARE, available: Callable[[], int] = available_memory
    ) -> None:
        self.read = 0
        self.skipped: list[Path] = []
        self._share = share
        self._available = available
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have `run` return after the chunk that it is at; from any thread."""
        self._stopped.set()

    def run(self, files: Callable[[], Iterable[Path]]) -> None:
        """Read files until all are read or it is stopped. Blocks: it wants a thread.

        Args:
            files: Returns them; called here, since finding them can block too.
        """
        buffer = memoryview(bytearray(CHUNK))
        with _last_in_line():
            for path in files():
                if self._stopped.is_set():
                    return
                try:
                    self._read(path, buffer)
                except OSError:
                    self.skipped.append(path)

    def _read(self, path: Path, buffer: memoryview) -> None:
        # What was read is in memory that still counts as available.
        room = self._share * self._available() - self.read
        if path.stat().st_size > room:
            self.skipped.append(path)
            return
        with path.open("rb", buffering=0) as file:
            while not self._stopped.is_set() and (count := file.readinto(buffer)):
                self.read += count


@contextlib.contextmanager
def _last_in_line() -> Iterator[None]:
    """Have the reads of this thread wait for those of everybody else, where the disk can."""
    if sys.platform != "linux":
        yield
        return
    thread = psutil.Process(threading.get_native_id())
    usual = thread.ionice()
    thread.ionice(psutil.IOPRIO_CLASS_IDLE)
    try:
        yield
    finally:
        thread.ionice(usual.ioclass, usual.value)
