"""`chat` on a real terminal: a swap in the middle, Ctrl-C, a lost gateway, narrow windows."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import PATIENCE_S, REPOSITORY, eventually, fake_model, gateway_home
from tests.integration.test_cli import LLM_BACKEND, Shell
from tests.integration.test_terminal import COLOUR, ESCAPE, Screen

# In a process with threads, Python 3.12 and newer warn of every fork.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.feature("chat at the terminal"),
]

PROMPT = "\x1b[?2004h"
"""Written once a prompt: from here on, pasted text is marked as such."""
READY = "exit or Ctrl-D ends."
STOPPED = "Stopped. To end the chat: exit, or Ctrl-D."


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        slow = ("--tokens", "500", "--token-delay-s", "0.05")
        home.configure(
            {
                "first": fake_model(tmp_path, "first", "--tokens", "40"),
                "second": fake_model(tmp_path, "second", "--load-s", "1"),
                "slow": fake_model(tmp_path, "slow", *slow),
                "never": fake_model(tmp_path, "never", "--never-ready"),
            }
        )
        shell = Shell(home)
        try:
            yield shell
        finally:
            shell.run("stop", "--patience", "0")


@pytest.fixture
def started(shell: Shell) -> Shell:
    result = shell.run("start", "--yes", "--detach")
    assert result.code == 0, result.err
    return shell


def chat(shell: Shell, *arguments: str, size: tuple[int, int] = (30, 100), **more: str) -> Screen:
    screen = Screen(shell, "chat", *arguments, size=size, **more)
    screen.until(READY)
    screen.until(PROMPT)
    return screen


def say(screen: Screen, text: str, *answers: str) -> None:
    """Type a line; wait for what answers it, and for the next prompt."""
    screen.press(f"{text}\r")
    for answer in answers:
        screen.until(answer)
    screen.until(PROMPT)


def test_a_chat_with_a_swap_in_the_middle(started: Shell) -> None:
    screen = chat(started)
    say(screen, "Hello", "first word2", "word40")
    screen.press("/model se\t")
    screen.until("cond")
    say(screen, "", "second: loading", "second answers from now on.")
    say(screen, "Hello again", "second word2")
    screen.press("\x04")

    assert screen.finish() == 0
    assert "━" in screen.text
    assert started.home.get("/status").json()["model"] == "second"
    assert started.home.events("second").count("done") >= 1
    assert started.gateway is not None


def test_ctrl_c_stops_the_answer_and_not_the_chat(started: Shell) -> None:
    screen = chat(started, "--model", "slow")
    screen.press("Count\r")
    screen.until("word5")
    screen.press("\x03")
    screen.until(STOPPED)
    screen.until(PROMPT)
    eventually(lambda: "gone" in started.home.events("slow"))
    say(screen, "/model first", "first answers from now on.")
    say(screen, "Hello", "first word2")
    screen.press("exit\r")

    assert screen.finish() == 0
    assert "Traceback" not in screen.text


def test_ctrl_c_stops_waiting_for_a_load(started: Shell) -> None:
    screen = chat(started)
    screen.press("/model never\r")
    screen.until("never: loading")
    screen.press("\x03")
    screen.until(STOPPED)
    screen.until(PROMPT)
    screen.press("\x03")
    screen.until(STOPPED)
    screen.press("exit\r")

    assert screen.finish() == 0
    assert "Traceback" not in screen.text


def test_a_lost_gateway_is_explained_and_found_again_elsewhere(started: Shell) -> None:
    screen = chat(started)
    gateway = started.gateway
    assert gateway is not None
    gateway.kill()
    eventually(lambda: started.gateway is None)
    say(screen, "Hello?", "The gateway does not run.", "start")
    assert started.run("start", "--yes", "--detach").code == 0
    say(screen, "/retry", "first word2")
    screen.press("exit\r")

    assert screen.finish() == 0


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}])
def test_in_a_narrow_window_every_line_fits(started: Shell, more: dict[str, str]) -> None:
    screen = chat(started, size=(12, 40), **more)
    say(screen, "Hello", "first word2", "word40")
    say(screen, "Once\\\ragain", "word40")
    screen.press("exit\r")

    assert screen.finish() == 0
    # A drawing that is replaced begins with a carriage return.
    drawn = re.split(r"[\r\n]+", ESCAPE.sub("", screen.raw))
    answers = [line.rstrip() for line in drawn if "word" in line]
    assert "word40" in "".join(answers)
    assert max(map(len, answers)) <= 40
    if more:
        assert COLOUR.search(screen.raw) is None


def test_commands_and_typing_errors(started: Shell, tmp_path: Path) -> None:
    screen = chat(started)
    say(screen, "/modle", "There is no command '/modle'.", "/help lists them.")
    say(screen, "/image /absent.png", "cannot be read")
    say(screen, "/model nobody", "nobody", "does not exist")
    say(screen, "/system Be brief.")
    say(screen, "Hello", "word40")
    say(screen, f"/save {tmp_path / 'chat.md'}", "Saved to")
    screen.press("/exit\r")

    assert screen.finish() == 0
    saved = (tmp_path / "chat.md").read_text()
    assert saved.startswith("## System\n\nBe brief.\n\n## You\n\nHello\n\n## first\n\nfirst word2 ")


def test_without_a_gateway_it_has_one_of_its_own(shell: Shell) -> None:
    screen = chat(shell, "--model", "second")
    say(screen, "Hello", "second word2")
    screen.press("\x04")

    assert screen.finish() == 0
    assert "stopping" in screen.text
    assert shell.is_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves_nothing(shell: Shell, number: signal.Signals) -> None:
    screen = chat(shell)
    screen.child.kill(number)

    assert screen.finish() == 128 + number
    assert shell.is_clean()


def test_without_a_terminal_lines_are_read_and_answered(shell: Shell) -> None:
    done = subprocess.run(
        [*LLM_BACKEND, "chat", "--max-tokens", "3"],
        cwd=REPOSITORY,
        env=shell.environment,
        input="Hello\nHello\\\nagain\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "first word2 word3\nfirst word2 word3\n")
    assert "\x1b" not in done.stderr
    assert shell.is_clean()
