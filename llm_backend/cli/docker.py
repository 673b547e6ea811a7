"""The `docker` program as the commands call it: every call has a deadline, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ANSWER_S = 10.0
"""How long a question may take; a hung engine never answers."""
TIMED_OUT = 124
NOT_FOUND = 127
TERM_S = 5.0
"""How long docker may take to end once it is told to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What docker answered.

    Attributes:
        code: Its exit status; 124 where it took too long, 127 where there is no docker.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0


def ask(
    *arguments: str,
    timeout_s: float = ANSWER_S,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run docker with these arguments and return what it answered."""
    try:
        process = _launch(arguments, cwd, env, stderr=subprocess.PIPE)
    except OSError as error:
        return Answer(NOT_FOUND, "", str(error))
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Answer(TIMED_OUT, "", _too_slow(arguments, timeout_s))
        except BaseException:
            _end(process)
            raise
    return Answer(process.returncode, out.strip(), err.strip())


def work(
    *arguments: str,
    on_line: Callable[[str], None],
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run docker and hand on each line as it comes; `out` of the answer has them all."""
    try:
        process = _launch(arguments, cwd, env, stderr=subprocess.STDOUT)
    except OSError as error:
        return Answer(NOT_FOUND, "", str(error))
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(timeout_s, give_up)
    lines: list[str] = []
    with process:
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                on_line(lines[-1])
            process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        return Answer(TIMED_OUT, "\n".join(lines), _too_slow(arguments, timeout_s))
    return Answer(process.returncode, "\n".join(lines), "")


def _launch(
    arguments: tuple[str, ...], cwd: Path | None, env: Mapping[str, str] | None, *, stderr: int
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["docker", *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        # A group of its own: compose is a child of docker, and both have to end.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERM_S)
            break
    # What docker left behind would keep its pipes open.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _too_slow(arguments: tuple[str, ...], timeout_s: float) -> str:
    words = [word for word in arguments if not word.startswith("-")][:2]
    return f"docker {' '.join(words)} was not done within {timeout_s:.0f} s"
