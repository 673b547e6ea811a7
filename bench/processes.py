"""Programs under measurement: started on one core, stopped, continued, and their CPU time read."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

END_S = 10.0


class Missing(Exception):
    """What is needed to measure a gateway is not here; the message says what."""


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Have programs that are started within the block run on one core only."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def cores() -> tuple[int, int]:
    """Return the core of the load and the one of the gateways; one for both where there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


@contextlib.contextmanager
def running(
    argv: Sequence[str], core: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run a program, with its output in a file, until the block ends."""
    with log.open("ab") as output, pinned(core):
        program = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield psutil.Process(program.pid)
    finally:
        end(program)


def end(program: subprocess.Popen[bytes]) -> None:
    """End a program and all that it has started, stopped ones too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = tree(psutil.Process(program.pid))
        for process in family:
            _send(process, signal.SIGCONT)
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(END_S)
        for process in family:
            _send(process, signal.SIGKILL)
    program.wait(END_S)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants."""
    return [process, *process.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    """Return whether a process has not ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def freeze(processes: Sequence[psutil.Process]) -> None:
    """Let them use no CPU for now."""
    for process in processes:
        _send(process, signal.SIGSTOP)


def thaw(processes: Sequence[psutil.Process]) -> None:
    """Let them go on."""
    for process in processes:
        _send(process, signal.SIGCONT)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def cpu_ns(processes: Sequence[psutil.Process]) -> int:
    """Return the CPU time of these processes so far, ended threads included, in nanoseconds.

    /proc/PID/stat counts in hundredths of a second; the CPU clock of a process counts exactly.
    """
    return sum(time.clock_gettime_ns(cpu_clock(process.pid)) for process in processes)


def cpu_clock(pid: int) -> int:
    """Return the clock of a process as clock_getcpuclockid(3) does, which Python doesn't have."""
    scheduler_time = 2
    return (~pid << 3) | scheduler_time


def rss_mib(processes: Sequence[psutil.Process]) -> float:
    """Return the resident memory of these processes, in MiB."""
    return sum(process.memory_info().rss for process in processes) / 2**20
