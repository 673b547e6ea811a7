"""Measured stage times and the wanted models, kept in the state directory across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import orjson

from llm_backend.switching.estimates import RECENT

KEPT = 4 * RECENT
"""Measurements kept per model and stage."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty where there is none or it is not readable JSON."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Replace a file by another whole one: a reader sees the old or the new text.

    Raises:
        OSError: the disk is full, or the directory is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(orjson.dumps(value))
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


class History:
    """Seconds that each stage of each model took, newest last.

    Attributes:
        durations: By model, then by stage; a live view for the scheduler's estimates.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.durations: dict[str, dict[str, list[float]]] = {}

    def load(self) -> None:
        """Read what an earlier gateway measured; what is not of the right form is left out."""
        for model, stages in read_json(self._path).items():
            if isinstance(stages, dict):
                kept = {s: _seconds(v) for s, v in stages.items()}
                self.durations[model] = {s: v for s, v in kept.items() if v}

    def add(self, model: str, stage: str, seconds: float) -> None:
        """Remember one measurement."""
        times = self.durations.setdefault(model, {}).setdefault(stage, [])
        times.append(round(seconds, 3))
        del times[:-KEPT]

    async def save(self) -> None:
        """Write everything; a full disk loses measurements and nothing else."""
        snapshot = orjson.loads(orjson.dumps(self.durations))
        with contextlib.suppress(OSError):
            await asyncio.to_thread(write_json, self._path, snapshot)


def _seconds(value: object) -> list[float]:
    if not isinstance(value, list):
        return []
    return [float(v) for v in value if isinstance(v, int | float) and v >= 0][-KEPT:]


class DoubtFile:
    """The engines that sleep, or fall asleep or wake up: nobody else knows what they answer.

    It is written before an engine is put to sleep and again once its wake is proven, so that a
    gateway that is killed in between leaves no engine that the next one would take for awake.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._instances: dict[str, Any] = {}

    def load(self) -> None:
        """Read what an earlier gateway noted."""
        self._instances = read_json(self._path)

    def note(self, instance: str) -> None:
        """Doubt an engine from now on.

        Raises:
            OSError: it cannot be noted; the engine is not to be put to sleep.
        """
        self._instances[instance] = True
        write_json(self._path, self._instances)

    def clear(self, instance: str) -> None:
        """Doubt an engine no more: it is awake for sure, or has ended."""
        if self._instances.pop(instance, None):
            with contextlib.suppress(OSError):  # then it is ended one time too many
                write_json(self._path, self._instances)

    def __contains__(self, instance: str) -> bool:
        return instance in self._instances


class WantedFile:
    """Which model each exclusivity group shall have: what a restart must reach.

    It is written before anything is drained or started, so that a gateway that is killed at any
    step of a switch finds its aim again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, str]:
        """Return the wanted model of each group."""
        return {g: m for g, m in read_json(self._path).items() if isinstance(m, str)}

    def save(self, wanted: dict[str, str | None]) -> None:
        """Replace the file; a few bytes, written in place of an await that could be lost."""
        with contextlib.suppress(OSError):
            write_json(self._path, {g: m for g, m in wanted.items() if m is not None})
