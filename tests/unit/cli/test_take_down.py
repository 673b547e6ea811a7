"""Ending what runs: politely, by force, and with nobody left to do it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llm_backend.cli import take_down as module
from llm_backend.cli.project import Project
from llm_backend.cli.take_down import end_process, sweep, take_down, turn
from llm_backend.engines.base import LaunchPlan
from llm_backend.errors import AlreadyRunning
from llm_backend.runtimes.locks import engine_lock, is_held
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.testing.fake_engine import command
from tests.harness import REPOSITORY, eventually
from tests.unit.cli.stand_in import StandIn, write_record

STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
while True: signal.pause()
"""
POLITE = "print('ready', flush=True); import signal; signal.pause()"


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[psutil.Process]:
    """A process that has come as far as to say so."""
    with subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()


@pytest.mark.parametrize(
    ("program", "killed"), [(POLITE, False), (STUBBORN, True)], indirect=["program"]
)
def test_a_process_is_asked_before_it_is_killed(program: psutil.Process, killed: bool) -> None:
    assert end_process(program, 20 if not killed else 0.2) is killed
    assert program.status() == psutil.STATUS_ZOMBIE


def test_nothing_is_done_where_nothing_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass

    assert end_process(None, 1) is False
    with contextlib.suppress(psutil.NoSuchProcess):
        assert end_process(psutil.Process(process.pid), 1) is False


def test_one_start_or_stop_works_at_a_time(tmp_path: Path) -> None:
    with turn(tmp_path), pytest.raises(AlreadyRunning) as caught, turn(tmp_path, 0.1):
        pass

    assert str(caught.value) == "Another start or stop is still at work. Look: llm-backend status"


def test_the_next_one_goes_on_when_the_first_is_done(tmp_path: Path) -> None:
    entered = threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with turn(tmp_path):
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    threading.Timer(0.1, leave.set).start()

    with turn(tmp_path, 30):
        assert leave.is_set()
    holder.join()


@pytest.fixture
def engine(project: Project) -> Iterator[psutil.Process]:
    """A running engine that no gateway owns, with a grandchild of its own."""

    async def start() -> int:
        runtime = ProcessRuntime(project.state_dir, project.lock_dir)
        argv = command("--served-model-name", "tiny", "--grandchild")
        plan = LaunchPlan("tiny", "cpu", "tiny", argv=argv, cwd=str(REPOSITORY), stop_s=5)
        started = await runtime.start(plan)
        await runtime.close()
        return int(started.handle)

    launcher = psutil.Process(asyncio.run(start()))
    yield launcher
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher.send_signal(signal.SIGQUIT)


def test_engines_that_a_dead_gateway_left_are_ended(
    project: Project, engine: psutil.Process
) -> None:
    write_record(project.state_dir, pid=2**22 - 1)
    family = [engine, *engine.children(recursive=True)]
    assert is_held(engine_lock(project.lock_dir, "cpu"))

    ended = take_down(project, 5, lambda *_: None)

    assert (ended.gateway, ended.models, ended.forced) == (None, ["tiny"], False)
    assert [process for process in family if lives(process)] == []
    assert not is_held(engine_lock(project.lock_dir, "cpu"))
    assert not (project.state_dir / "gateway.json").exists()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it was buried between the two
        return False


def test_where_nothing_ever_ran_nothing_is_found(project: Project) -> None:
    assert sweep(project) == []


@pytest.mark.parametrize("program", [STUBBORN], indirect=True)
def test_a_gateway_that_does_not_react_is_killed(
    project: Project,
    program: psutil.Process,
    gateway: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TERM_S", 0.2)
    gateway.held.add("/api/v1/inference/unload")
    gateway.hold.clear()
    url, started = gateway.url, program.create_time()
    write_record(project.state_dir, pid=program.pid, create_time=started, url=url)
    steps: list[str] = []

    ended = take_down(project, 0.2, lambda text, *_: steps.append(text))

    assert (ended.gateway, ended.models, ended.forced) == (program.pid, [], True)
    assert steps == [
        "unloading",
        "waiting for the gateway to end",
        "ending what engines are left",
    ]


@pytest.mark.parametrize("program", [STUBBORN], indirect=True)
def test_ctrl_c_means_not_to_wait_any_longer(
    project: Project, program: psutil.Process, gateway: StandIn
) -> None:
    write_record(
        project.state_dir, pid=program.pid, create_time=program.create_time(), url=gateway.url
    )

    def press_ctrl_c(text: str, *_: object) -> None:
        if text == "waiting for the gateway to end":
            raise KeyboardInterrupt

    ended = take_down(project, 60, press_ctrl_c)

    assert (ended.models, ended.forced) == (["tiny"], True)
    eventually(lambda: program.status() == psutil.STATUS_ZOMBIE)
