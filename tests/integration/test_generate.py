"""`generate` without a gateway: it starts one, answers and leaves nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.harness import PATIENCE_S, REPOSITORY, eventually, fake_model, gateway_home
from tests.integration.test_cli import Shell
from tests.integration.test_terminal import Screen

# In a process with threads, Python 3.12 and newer warn of every fork.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.feature("generate at the terminal"),
]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        slow = ("--tokens", "500", "--token-delay-s", "0.05")
        home.configure(
            {
                "first": fake_model(tmp_path, "first"),
                "slow": fake_model(tmp_path, "slow", *slow),
                "never": fake_model(tmp_path, "never", "--never-ready"),
                "broken": fake_model(tmp_path, "broken", "--exit-at-start", "3"),
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


@pytest.mark.engine
def test_a_real_engine_answers_and_is_gone(tmp_path: Path) -> None:
    with gateway_home(tmp_path) as home:
        shutil.copytree(REPOSITORY / "config", tmp_path / "config")
        settings = yaml.safe_load((tmp_path / "config/gateway.yaml").read_text())
        settings |= {"setup": "local", "state_dir": str(tmp_path / "state")}
        settings |= {"models_dir": str(tmp_path / "models")}
        (tmp_path / "config/gateway.yaml").write_text(yaml.safe_dump(settings))
        shell = Shell(home)
        question = "What is the capital of France? Answer with one word."
        options = ("--model", "smollm2", "--max-tokens", "8", "--temperature", "0")
        result = shell.run("generate", question, *options)

        assert result.code == 0, result.err
        assert "Paris" in result.out
        assert result.out.count("\n") == 1
        assert "smollm2-long: loading" in result.err
        assert shell.is_clean()


def test_a_gateway_that_runs_answers_and_goes_on(shell: Shell) -> None:
    assert shell.run("start", "--yes", "--detach").code == 0
    gateway = shell.gateway
    result = shell.run("generate", "Hi", "--model", "slow", "--max-tokens", "2")

    assert (result.code, result.out) == (0, "slow word2\n")
    assert "gateway: waiting until it answers" not in result.err
    assert shell.gateway == gateway
    assert shell.home.get("/status").json()["model"] == "slow"
    shell.run("stop")


def test_an_engine_that_fails_is_told_and_nothing_is_left(shell: Shell) -> None:
    result = shell.run("generate", "Hi", "--model", "broken")

    assert (result.code, result.out) == (1, "")
    assert "Error: The engine of broken exited with status 3 before it was ready." in result.err
    assert shell.is_clean()


def test_what_cannot_run_here_starts_nothing(shell: Shell) -> None:
    result = shell.run("generate", "Hi", "--model", "nobody")

    assert (result.code, result.out) == (1, "")
    assert "Error: The catalog has no model 'nobody'" in result.err
    assert not shell.state_dir.joinpath("gateway.json").exists()


def test_ctrl_c_during_the_load_leaves_nothing(shell: Shell) -> None:
    screen = Screen(shell, "generate", "Hi", "--model", "never", size=(24, 40))
    screen.until("never: loading")
    screen.press("\x03")

    assert screen.finish() == 130
    assert "Traceback" not in screen.text
    assert shell.is_clean()


def test_ctrl_c_during_the_answer_leaves_nothing(shell: Shell) -> None:
    screen = Screen(shell, "generate", "Hi", "--stream", "--model", "slow", size=(24, 40))
    screen.until("word3")
    screen.press("\x03")

    assert screen.finish() == 130
    assert "Traceback" not in screen.text
    told = shell.home.events("slow")  # whether it had time to note that we went is open
    assert told.count("request") == told.count("done") + 1
    assert shell.is_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(shell: Shell, number: signal.Signals) -> None:
    process = shell.begin("generate", "Hi", "--model", "never")
    eventually(lambda: shell.home.starts("never"))
    process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 128 + number, said
    assert shell.is_clean()
