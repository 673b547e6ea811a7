"""Engines with helpers under the process runtime: they start, end and die as one."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import psutil
import pytest

from llm_backend.engines.base import Helper, LaunchPlan
from llm_backend.runtimes import helpers
from llm_backend.runtimes.ports import free_port
from llm_backend.testing import fake_engine
from tests.contract.benches import ROOT, ProcessBench

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.engine,
    pytest.mark.feature("engine with helper processes"),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop is enough here: nothing below depends on it."""
    return "asyncio"


@pytest.fixture
def kind_of_bench() -> type[ProcessBench]:
    return ProcessBench


def helper(bench: ProcessBench, name: str, *flags: str, **fields: Any) -> Helper:
    """A fake engine in the part of a helper; its journal is that of the model of this name."""
    journal = bench.plan(name).argv[-2:]
    argv = fake_engine.command("--served-model-name", name, *journal, *flags)
    return Helper(name, argv, **{"ready_path": "/health", **fields})


def company(bench: ProcessBench, *members: Helper, flags: tuple[str, ...] = ()) -> LaunchPlan:
    return bench.plan("a", *flags, helpers=members, stop_s=4.0)


def program(bench: ProcessBench) -> psutil.Process:
    """The process that runs the members."""
    (found,) = [p for p in bench.processes() if _runs(p, helpers.__file__)]
    return found


def _runs(process: psutil.Process, file: str) -> bool:
    with suppress(psutil.Error):
        return process.cmdline()[1:4] == ["-I", "-S", file]
    return False


async def test_each_starts_when_the_one_before_is_ready(bench: ProcessBench) -> None:
    first = helper(bench, "first", "--load-s", "0.3")
    second = helper(bench, "second", port=free_port("127.0.0.1"))
    engine = await bench.start_ready(company(bench, first, second))
    ports = dict(engine.helpers)
    assert set(ports) == {"first", "second"}
    assert ports["second"] == second.port

    starts = [(await bench.event(name, "start"))["at"] for name in ("first", "second", "a")]
    assert starts == sorted(starts)
    assert (await bench.event("first", "ready"))["at"] < starts[1]
    assert (await bench.event("second", "ready"))["at"] < starts[2]

    ended = await bench.runtime.stop(engine, 5)
    assert (ended.code, ended.reason) == (0, "exited with status 0")
    exits = [bench.journal(name, "exit")[0]["at"] for name in ("a", "second", "first")]
    assert exits == sorted(exits)


async def test_a_stop_while_a_helper_loads_is_not_kept_waiting(bench: ProcessBench) -> None:
    slow = helper(bench, "slow", "--never-ready", start_s=600)
    engine = await bench.start(company(bench, slow))
    await bench.event("slow", "start")
    await asyncio.wait_for(bench.runtime.stop(engine, 4), 15)
    assert bench.journal("a", "start") == []
    assert bench.processes() == []


async def test_the_end_of_the_engine_proper_is_told_as_its_own(bench: ProcessBench) -> None:
    plan = company(bench, helper(bench, "h"), flags=("--exit-at-start", "3"))
    ended = await asyncio.wait_for(bench.runtime.wait(await bench.start(plan)), 20)
    assert (ended.code, ended.reason) == (3, "exited with status 3")
    assert len(bench.journal("h", "sigterm")) == 1
    again = await bench.start_ready(dataclasses.replace(plan, argv=bench.plan("a").argv))
    assert (await bench.runtime.stop(again, 5)).reason == "exited with status 0"


async def test_one_that_ignores_sigterm_does_not_use_up_the_time_of_all(
    bench: ProcessBench,
) -> None:
    plan = company(bench, helper(bench, "h"), flags=("--ignore-sigterm",))
    engine = await bench.start_ready(plan)
    ended = await asyncio.wait_for(bench.runtime.stop(engine, 4), 15)
    assert ended.code == 128 + signal.SIGKILL
    assert len(bench.journal("h", "exit")) == 1, "the helper was not asked"
    assert bench.processes() == []


@pytest.mark.parametrize("victim", ["launcher", "program"])
async def test_what_runs_them_may_be_killed_and_nothing_is_left(
    bench: ProcessBench, victim: str
) -> None:
    engine = await bench.start_ready(company(bench, helper(bench, "h")))
    if victim == "launcher":
        psutil.Process(int(engine.handle)).kill()
    else:
        program(bench).kill()
    ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
    assert ended.code == (None if victim == "launcher" else -9)
    assert bench.processes() == []
    assert bench.held_locks() == []
    await bench.start_ready(company(bench, helper(bench, "h")))


async def test_a_program_that_cannot_be_run_is_named(bench: ProcessBench) -> None:
    gone = Helper("gone", ("/no/such/tokenizer",))
    ended = await bench.runtime.wait(await bench.start(company(bench, gone)))
    assert ended.reason == (
        "ended because its helper gone cannot be run: /no/such/tokenizer: No such file or directory"
    )
    with_cwd = Helper("here", (sys.executable, "-c", "raise SystemExit(5)"), cwd=str(ROOT))
    ended = await bench.runtime.wait(await bench.start(company(bench, with_cwd)))
    assert (ended.code, ended.reason) == (5, "ended because its helper here exited with status 5")


async def test_a_directory_that_is_not_there_is_named(bench: ProcessBench) -> None:
    lost = Helper("lost", (sys.executable, "-c", ""), cwd="/no/such/folder")
    ended = await bench.runtime.wait(await bench.start(company(bench, lost)))
    assert ended.reason == (
        "ended because its helper lost cannot be run: /no/such/folder: No such file or directory"
    )


async def test_what_no_program_can_be_given_is_told(bench: ProcessBench) -> None:
    odd = Helper("odd", (sys.executable, "-c", "pass\0"))
    ended = await bench.runtime.wait(await bench.start(company(bench, odd)))
    assert ended.reason == "ended because its helper odd cannot be run: embedded null byte"
    assert bench.processes() == []


async def test_variables_of_a_helper_are_its_own_and_in_no_command_line(
    bench: ProcessBench,
) -> None:
    secret = {"TOKEN_OF_H": "hidden-from-ps"}
    with_secret = dataclasses.replace(helper(bench, "h"), env=secret)
    await bench.start_ready(company(bench, with_secret, helper(bench, "other")))
    processes = bench.processes()
    assert not [p for p in processes if "hidden-from-ps" in " ".join(p.cmdline())]
    members = [p for p in processes if p.ppid() == program(bench).pid]
    knowing = [p for p in members if p.environ().items() >= secret.items()]
    assert len(members) == 3
    assert [p.cmdline()[-1] for p in knowing] == [with_secret.argv[-1]]
    assert not [p for p in members if helpers.ENVIRONMENTS in p.environ()]


@pytest.mark.parametrize("how", ["stop", "helper", "engine", "both"])
async def test_daemons_and_the_deaf_are_ended_too(bench: ProcessBench, how: str) -> None:
    deaf = helper(bench, "h", "--grandchild", "--ignore-sigterm")
    engine = await bench.start_ready(company(bench, deaf, flags=("--grandchild",)))
    members = [p for p in bench.processes() if p.ppid() == program(bench).pid]
    assert len(members) == 2
    if how == "stop":
        await asyncio.wait_for(bench.runtime.stop(engine, 4), 20)
    else:
        for process in members:
            is_helper = "--ignore-sigterm" in process.cmdline()
            if how == "both" or is_helper == (how == "helper"):
                process.kill()
        ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert "killed by SIGKILL" in ended.reason
        assert ended.code == -signal.SIGKILL
    assert bench.processes() == []
    assert bench.held_locks() == []
    assert bench.bound_ports() == []


async def test_what_the_gateway_and_the_launcher_left_is_ended_by_the_next(
    bench: ProcessBench,
) -> None:
    plan = company(bench, helper(bench, "h", "--grandchild"))
    engine = await bench.start_ready(plan)
    await bench.runtime.close()  # as a gateway that was killed: nobody watches any more
    psutil.Process(int(engine.handle)).kill()
    after = bench.new_runtime()
    assert await after.survey([plan]) == []
    assert bench.processes() == []
    assert bench.held_locks() == []


@pytest.mark.skipif(sys.platform != "linux", reason="it takes the ptrace(2) of Linux")
def test_one_whose_end_is_not_told_does_not_hold_up_the_others() -> None:
    # A tracer that never waits keeps the end of its tracee from the parent, as the kernel does
    # with the end of a process that it cannot interrupt.
    let = "import ctypes; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)"
    trace = "import ctypes; print(ctypes.CDLL(None).ptrace(0x4206, {}, 0, 0), flush=True)"
    sleep = "; print(flush=True); import time; time.sleep(30)"
    with _python(let + sleep) as member:
        _line(member)
        with _python(trace.format(member.pid) + sleep) as tracer:
            try:
                if _line(tracer) != b"0\n":
                    pytest.skip("this machine forbids ptrace(2)")
                assert helpers.end_one(member, 0.1) == -signal.SIGKILL
                assert tracer.poll() is None
            finally:
                tracer.kill()


def _python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()
