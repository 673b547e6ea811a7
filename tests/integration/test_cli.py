"""The command line from the first start to the last stop: real gateways, engines and terminals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from llm_backend.cli.control import find_gateway
from llm_backend.runtimes.locks import engine_lock, is_held
from tests.harness import (
    PATIENCE_S,
    REPOSITORY,
    GatewayHome,
    eventually,
    fake_model,
    gateway_home,
)

pytestmark = pytest.mark.feature("start and stop")

LLM_BACKEND = (sys.executable, "-m", "llm_backend")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Shell:
    """A person's shell in the home of one project."""

    def __init__(self, home: GatewayHome) -> None:
        self.home = home
        self.state_dir = home.root / "state"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
        self.environment = {
            **clean,
            "LLM_BACKEND_ROOT": str(home.root),
            "NO_COLOR": "1",
            # For the fake engines: they run in the project's root.
            "PYTHONPATH": str(REPOSITORY),
        }

    def run(self, *arguments: str) -> Result:
        done = subprocess.run(
            [*LLM_BACKEND, *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").out)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*LLM_BACKEND, *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def gateway(self) -> psutil.Process | None:
        record = find_gateway(self.state_dir)
        return record.process if record else None

    def is_clean(self) -> bool:
        """Whether no process is left, no lock held, and nothing says that something runs."""
        return not (
            self.gateway
            or self.home.engine_processes()
            or is_held(engine_lock(self.state_dir / "locks", "cpu"))
            or is_held(self.state_dir / "locks" / "gateway.lock")
            or (self.state_dir / "gateway.json").exists()
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        broken = fake_model(tmp_path, "broken", "--exit-at-start", "3")
        home.configure(
            {
                "first": fake_model(tmp_path, "first", purpose="The first"),
                "second": fake_model(tmp_path, "second", "--load-s", "0.5", purpose="The second"),
                "broken": broken | {"purpose": "Fails"},
                "boxed": fake_model(tmp_path, "boxed")
                | {"runtimes": ["docker"], "engine": {"kind": "vllm", "container": "x"}},
            }
        )
        shell = Shell(home)
        try:
            yield shell
        finally:
            if gateway := shell.gateway:
                gateway.kill()
                with contextlib.suppress(psutil.TimeoutExpired):
                    gateway.wait(PATIENCE_S)


def test_from_start_to_stop(shell: Shell) -> None:
    started = shell.run("start", "--yes", "--detach")
    assert started.code == 0, started.err
    url = shell.home.url
    for line in (
        "Set-up: local (",
        "The gateway runs (process ",
        f"  API      {url}/v1\n",
        f"  curl {url}/v1/chat/completions",
        '"model": "first"',
    ):
        assert line in started.out
    assert "first: loading" in started.err

    again = shell.run("start", "--yes", "--detach")
    assert again.code == 0
    assert "It runs already" in again.out
    assert f"  API      {url}/v1\n" in again.out

    switched = shell.run("switch", "second")
    assert switched.code == 0, switched.err
    assert switched.out.startswith("second is awake (")
    assert "second: ending first\nsecond: waiting for free memory\n" in switched.err

    assert shell.home.chat().json()["model"] == "second"
    status = shell.run("status")
    assert status.code == 0
    assert "Awake    second\n" in status.out
    states = {model["id"]: model["residency"] for model in shell.json("models")["models"]}
    assert (states["first"], states["second"]) == ("stopped", "awake")
    assert shell.run("cache", "clear").out == "All cached answers are forgotten.\n"
    assert "gateway_ready" in shell.run("logs", "gateway", "-n", "1000").out
    assert "second | " in shell.run("logs", "all").out.replace("second  |", "second |")

    stopped = shell.run("stop")
    assert stopped.code == 0
    assert stopped.out.startswith("Stopped the engine of second.\nStopped the gateway (process ")
    assert shell.is_clean()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)
    assert shell.run("stop").out == "Nothing runs.\n"
    assert shell.run("status").code == 69


def test_an_engine_that_fails_is_told_with_its_last_lines(shell: Shell) -> None:
    started = shell.run("start", "--detach", "--model", "broken")

    assert started.code == 1
    assert "Error: The engine of broken exited with status 3 before it was ready." in started.err
    assert "The gateway runs, this model does not. Others: " in started.err
    assert shell.run("switch", "first").code == 0


def test_a_gateway_that_was_killed_leaves_nothing_after_stop(shell: Shell) -> None:
    assert shell.run("start", "--yes", "--detach").code == 0
    gateway = shell.gateway
    assert gateway is not None
    gateway.kill()
    eventually(lambda: shell.gateway is None)
    assert shell.home.engine_processes()

    stopped = shell.run("stop")

    assert (stopped.code, stopped.out) == (0, "Stopped the engine of first.\n")
    assert shell.is_clean()


def test_after_a_crash_start_keeps_the_model_that_was_awake(shell: Shell) -> None:
    assert shell.run("start", "--detach", "--model", "second").code == 0
    gateway = shell.gateway
    assert gateway is not None
    gateway.kill()
    eventually(lambda: shell.gateway is None)

    started = shell.json("start", "--yes")

    assert (started["already"], started["model"]) == (False, "second")
    assert shell.home.starts("second") == 1


def test_of_two_starts_at_once_one_starts_and_the_other_says_so(shell: Shell) -> None:
    both = [shell.begin("start", "--yes", "--detach") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE_S * 2)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("It runs already" in text for text in said) == [False, True]
    assert shell.home.starts("first") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_the_foreground_a_signal_ends_everything(shell: Shell, number: signal.Signals) -> None:
    process = shell.begin("start", "--yes")
    eventually(lambda: shell.gateway is not None and shell.home.starts("first"))
    eventually(lambda: httpx2.get(f"{shell.home.url}/status").json()["model"] == "first")

    process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert "Stopping. Ctrl-C again: without waiting for running requests." in said
    assert "Stopped the gateway (process " in said
    assert shell.is_clean()


def test_a_signal_while_the_gateway_comes_up_ends_everything(shell: Shell) -> None:
    process = shell.begin("start", "--yes")
    eventually(lambda: shell.gateway is not None)

    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert "Stopping. Ctrl-C again: without waiting for running requests." in said
    assert shell.is_clean()


def test_a_gateway_that_ends_ends_the_foreground_too(shell: Shell) -> None:
    process = shell.begin("start", "--yes")
    assert process.stdout is not None
    said = ""
    while "Ctrl-C stops everything" not in said:
        said += process.stdout.readline()
    gateway = shell.gateway
    assert gateway is not None

    gateway.kill()
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert f"Error: The gateway (process {gateway.pid}) has ended.\nIts log: " in said


def test_serve_runs_in_the_foreground_until_sigterm(shell: Shell) -> None:
    process = shell.begin("serve", "--setup", "local")
    eventually(lambda: shell.gateway is not None)
    eventually(lambda: httpx2.get(f"{shell.home.url}/health/ready").status_code == 200)

    second = shell.run("serve", "--setup", "local")
    process.terminate()
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    assert second.code == 75
    assert f"Error: Another gateway (pid {process.pid}) holds " in second.err


def test_a_log_that_is_read_by_head_leaves_no_traceback(shell: Shell) -> None:
    log = shell.state_dir / "logs" / "gateway.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line that is long enough\n" * 20_000)
    command = f"{' '.join(LLM_BACKEND)} logs gateway -n 20000 | head -n 1"

    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("a line that is long enough\n", "")


def test_a_followed_log_ends_with_ctrl_c(shell: Shell) -> None:
    log = shell.state_dir / "logs" / "gateway.log"
    log.parent.mkdir(parents=True)
    log.write_text("before\n")
    process = shell.begin("logs", "-f")
    assert process.stdout is not None
    assert process.stdout.readline() == "before\n"
    with log.open("a") as more:
        more.write("after\n")
    assert process.stdout.readline() == "after\n"

    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, said) == (130, "")
