"""`stop` says what it ended. How it does that: test_take_down.py."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llm_backend.cli import take_down
from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.project import Project
from tests.unit.cli.conftest import Command
from tests.unit.cli.fake_docker import WELL, FakeDocker, listing
from tests.unit.cli.stand_in import StandIn, write_record


@pytest.fixture
def process(project: Project, gateway: StandIn) -> Iterator[subprocess.Popen[bytes]]:
    """A process that passes for the gateway's."""
    program = "print(flush=True); import signal; signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = psutil.Process(process.pid).create_time()
        write_record(project.state_dir, pid=process.pid, create_time=started, url=gateway.url)
        yield process
        process.kill()


def test_it_names_what_it_ended(command: Command, process: subprocess.Popen[bytes]) -> None:
    result = command("stop")

    assert result.code == 0
    assert result.out == (
        f"Stopped the engine of tiny.\nStopped the gateway (process {process.pid}).\n"
    )
    assert result.err.splitlines() == [
        "stopping: unloading",
        "stopping: waiting for the gateway to end",
        "stopping: ending what engines are left",
    ]


def test_programs_get_the_same(command: Command, process: subprocess.Popen[bytes]) -> None:
    result = command("stop", "--json")

    assert result.json == {
        "gateway": process.pid,
        "models": ["tiny"],
        "forced": False,
        "services": [],
    }


def test_where_nothing_runs_it_says_so(command: Command) -> None:
    result = command("stop")

    assert (result.code, result.out) == (0, "Nothing runs.\n")


def test_while_another_one_is_at_work_it_waits_and_then_says_so(
    command: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.state_dir.mkdir()
    with (project.state_dir / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(take_down, "TURN_S", 0.1)
        result = command("stop")

    assert result.code == 75
    assert (
        result.err == "Error: Another start or stop is still at work.\nLook: llm-backend status\n"
    )


def test_containers_are_taken_down_and_named(
    command: Command, project: Project, fake_docker: FakeDocker
) -> None:
    ComposeEnv(project).prepare([])
    engine = ("llm-boxed", "llm-boxed", "running", "", 0)
    fake_docker.answers("ps --all", 0, listing([*WELL[:2], engine]))

    result = command("stop")

    assert result.code == 0
    assert result.out == "Stopped the engine of boxed.\nStopped the containers: gateway, redis.\n"
    assert len(fake_docker.asked("down")) == 1
    assert command("stop").out == "Nothing runs.\n"


def test_containers_that_docker_does_not_show_are_no_success(
    command: Command, project: Project, fake_docker: FakeDocker
) -> None:
    ComposeEnv(project).prepare([])
    fake_docker.answers("compose ps", 1, "", "Cannot connect to the Docker daemon at unix:///x")

    result = command("stop")

    assert result.code == 1
    assert "Type: sudo systemctl start docker" in result.err
