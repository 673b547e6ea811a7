"""Notes the gateway's arrivals as a trace: time, model, hash of the key, token counts; no text."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

import structlog

from llm_backend.errors import SetupError
from llm_backend.gateway.record import CLIENT_GONE, Record
from llm_backend.replay.trace import Arrival, to_line

log = structlog.get_logger(__name__)

LIMIT: Final = 32 * 1024 * 1024
"""Bytes of the file; as much again is kept of what was before, in a file with `.1` at its end."""

EVERY_S: Final = 1.0
"""How often lines are written."""

HELD: Final = 100_000
"""Lines kept in memory while the disk is slow; the oldest go first."""


class ArrivalRecorder:
    """Writes a line for every request that asked for an engine.

    Args:
        path: The file; what is in it stays.
        secret: Keeps the hashes of key names from being guessed.
        limit: Bytes of the file.
    """

    def __init__(self, path: Path, secret: bytes, limit: int = LIMIT) -> None:
        self._path = path
        self._secret = secret
        self._limit = limit
        self._lines: deque[bytes] = deque(maxlen=HELD)
        # Of all clocks only this one goes on over restarts; amid a run it must not jump.
        self._epoch = time.time() - time.monotonic()
        self._failed = False
        self._lock = threading.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def writing(cls, path: Path, secret: bytes) -> AsyncIterator[Self]:
        """Write what is noted while the block runs, and the rest at its end.

        Raises:
            SetupError: the file cannot be written.
        """
        recorder = cls(path, secret)
        recorder.open()
        task = asyncio.create_task(recorder.keep_writing(), name="arrivals")
        try:
            yield recorder
        finally:
            task.cancel()
            await asyncio.wait({task})
            recorder.flush()

    def open(self) -> None:
        """Make the file, readable by its owner alone.

        Raises:
            SetupError: the file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError as error:
            raise SetupError(
                f"switching.record: {self._path} cannot be written: {error.strerror}.",
                hint="Name another file in config/gateway.yaml, or null.",
            ) from None

    def note(self, record: Record) -> None:
        """Note one request that is over."""
        self._lines.append(to_line(self._arrival(record)))

    def _arrival(self, record: Record) -> Arrival:
        began = self._epoch + time.monotonic() - record.seconds
        key = hmac.new(self._secret, (record.key or "").encode(), hashlib.sha256)
        left = record.error == CLIENT_GONE and record.waited_s is None
        return Arrival(
            at_s=round(began, 3),
            model=record.model or "",
            key=key.hexdigest()[:12],
            batch=record.batch,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            patience_s=round(record.seconds, 3) if left else None,
        )

    async def keep_writing(self) -> None:
        """Write what is noted, every second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._lines:
                await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what is noted; a full disk loses lines and nothing else."""
        with self._lock:  # the last one may meet one in a thread, which cannot be cancelled
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                self._write(b"".join(lines))
            except (OSError, SetupError) as error:
                if not self._failed:
                    log.warning("arrivals_lost", path=str(self._path), reason=str(error))
                self._failed = True
            else:
                self._failed = False

    def _write(self, lines: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(lines) > self._limit:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self.open()
        with self._path.open("ab") as file:
            file.write(lines)
