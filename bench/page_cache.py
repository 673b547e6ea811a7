"""What weights in the page cache save of a start of real vLLM: dropped from it, next to read ahead.

switching.py runs this beside its own figures.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.vllm_cpu import Launch, interpreter, made_model
from llm_backend.weights.page_cache import ReadAhead, weight_files

SIZE = (2048, 48)
"""Width and layers of the model: 3 GiB of weights."""


@dataclass(frozen=True, slots=True)
class Round:
    """A start each way, in seconds.

    Attributes:
        dropped_s: The weights are on the disk alone.
        ahead_s: They were read ahead.
        reading_s: What reading them ahead took.
        mib: How large they are.
    """

    dropped_s: float
    ahead_s: float
    reading_s: float
    mib: int


def drop(files: Sequence[Path]) -> None:
    """Have nothing of these files in the page cache."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # what is not yet on the disk stays
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def measured(rounds: int) -> list[Round]:
    """Start vLLM in turns, with its own files in the page cache."""
    python = interpreter()
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        model = made_model(python, Path(folder) / "model", *SIZE)
        launch = Launch(python, model, Path(folder) / "log")
        launch.start_s()
        return [_round(launch, weight_files(model)) for _ in range(rounds)]


def _round(launch: Launch, files: Sequence[Path]) -> Round:
    drop(files)
    dropped_s = launch.start_s()
    drop(files)
    began = time.monotonic()
    ahead = ReadAhead()
    ahead.run(lambda: files)
    reading_s = time.monotonic() - began
    return Round(dropped_s, launch.start_s(), reading_s, ahead.read >> 20)


def saved_s(rounds: Sequence[Round]) -> float:
    """Return the median of what reading ahead saves, in seconds; negative where nothing."""
    return statistics.median(each.dropped_s - each.ahead_s for each in rounds)
