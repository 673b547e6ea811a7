from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.processes import cpu_clock, cpu_ns, freeze, lives, pinned, running, thaw, tree

BUSY = "import sys, time\nwhile time.process_time() < 0.2: pass\nsys.stdin.close(); time.sleep(60)"


def wait_for(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_cpu_clock_of_a_process_counts_all_its_threads() -> None:
    spin = threading.Thread(target=lambda: sum(range(3_000_000)))
    before = time.clock_gettime_ns(cpu_clock(os.getpid()))
    spin.start()
    spin.join()

    spent = time.clock_gettime_ns(cpu_clock(os.getpid())) - before
    assert spent > 1_000_000
    assert abs(time.clock_gettime_ns(cpu_clock(os.getpid())) - time.process_time_ns()) < 10**9


def test_a_program_is_pinned_measured_frozen_and_ended(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with running([sys.executable, "-c", BUSY], core, tmp_path / "log") as process:
        assert process.cpu_affinity() == [core]
        wait_for(lambda: cpu_ns([process]) > 200_000_000)
        freeze([process])
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
        thaw([process])
        wait_for(lambda: process.status() != psutil.STATUS_STOPPED)
        freeze([process])
    assert not lives(process)


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1).wait()"
    with running([sys.executable, "-c", code], 0, tmp_path / "log") as process:
        wait_for(lambda: len(tree(process)) == 2)
        family = tree(process)
        freeze(family)

    wait_for(lambda: not any(lives(member) for member in family))


def test_an_ended_process_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with running([sys.executable, "-c", ""], 0, tmp_path / "log") as process:
        wait_for(lambda: not lives(process))
        freeze([process])
        thaw([process])


def test_pinning_ends_with_its_block() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
