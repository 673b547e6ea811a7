"""The mock engine and the load generator: two small C programs, compiled when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Missing, pinned, running
from bench.waiting import eventually, is_listening
from llm_backend.runtimes.ports import free_port

SOURCES = Path(__file__).parent
PATIENCE_S = 180.0


def cache_dir() -> Path:
    """Return where what is built and installed is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "llm-backend" / "bench"


def compiled(name: str) -> Path:
    """Return the compiled program; compile it unless this version of it is there.

    Raises:
        Missing: there is no C compiler, or it refuses.
    """
    source = SOURCES / f"{name}.c"
    text = source.read_bytes() + (SOURCES / "http.h").read_bytes()
    program = cache_dir() / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"
    if not program.exists():
        _compile(source, program)
    return program


def _compile(source: Path, program: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler (cc): apt-get install gcc libc6-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(fresh), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"cc cannot compile {source.name}: {done.stderr.strip()}")
    fresh.replace(program)


@contextlib.contextmanager
def mock(core: int, log: Path) -> Iterator[int]:
    """Run the mock engine; yield its port."""
    port = free_port("127.0.0.1")
    with running([str(compiled("mock")), str(port)], core, log):
        eventually(lambda: is_listening(port), 10, f"the mock engine listens on {port}")
        yield port


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load generator says.

    Attributes:
        answers: Good answers; in stream mode good streams.
        marked: Answers with the header that was looked for.
        errors: Answers and connections that were not as they must be.
        first_error: The first of them.
        events: Events of all streams, without [DONE].
        seconds: How long it took.
        p50_us: Latency of a request; in stream mode time to the first event.
        p99_us: The same.
        gap_p50_us: Time between two events of a stream.
        gap_p99_us: The same.
    """

    answers: int
    marked: int
    errors: int
    first_error: str
    events: int
    seconds: float
    p50_us: float
    p99_us: float
    gap_p50_us: float
    gap_p99_us: float


def load(core: int, arguments: Sequence[str]) -> Outcome:
    """Run the load generator to its end."""
    with pinned(core):
        program = subprocess.Popen(
            [str(compiled("load")), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        output, complaint = program.communicate(timeout=PATIENCE_S)
    except BaseException:
        program.kill()
        program.wait()
        raise
    if program.returncode:
        said = complaint.decode(errors="replace").strip()
        return Outcome(0, 0, 1, said or f"status {program.returncode}", 0, 0, 0, 0, 0, 0)
    fields: dict[str, Any] = json.loads(output.decode(errors="replace"))
    return Outcome(**fields)
