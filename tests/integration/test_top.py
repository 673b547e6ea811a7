"""`llm-backend top` on a real terminal: a switch as it goes, keys, a gateway that is restarted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.harness import eventually, fake_model, gateway_home
from tests.integration.test_cli import Shell
from tests.integration.test_terminal import COLOUR, Screen

# In a process with threads, Python 3.12 and newer warn of every fork.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.feature("top"),
]

OPENS, CLOSES = "\x1b[?1049h", "\x1b[?1049l"
"""Takes the whole screen, and gives it back as it was."""


@pytest.fixture(scope="module")
def outlet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    root = tmp_path_factory.mktemp("top")
    with gateway_home(root) as home:
        home.configure(
            {
                "first": fake_model(root, "first"),
                "second": fake_model(root, "second", "--load-s", "3"),
            }
        )
        shell = Shell(home)
        try:
            yield shell
        finally:
            shell.run("stop")


@pytest.fixture
def shell(outlet: Shell) -> Shell:
    """Where a gateway runs, with the first model awake."""
    if outlet.gateway is None:
        assert outlet.run("start", "--yes", "--detach").code == 0
    assert outlet.home.load("first").is_success
    return outlet


def watch(shell: Shell, width: int = 110, **environment: str) -> Screen:
    screen = Screen(shell, "top", size=(40, width), **environment)
    screen.until(OPENS)
    screen.until("awake")
    return screen


def test_a_switch_is_shown_stage_by_stage(shell: Shell) -> None:
    screen = watch(shell)
    assert re.search(r"llm-backend \S+, http://\S+, local, up \d+ s, ok", screen.text)
    assert re.search(r"first +awake", screen.text)
    assert "cpu" in screen.text

    shell.home.load("second", wait=False)
    screen.until("Switch  ")
    screen.until("load")
    screen.until("done: ")
    screen.until("launch ")
    screen.until("first")  # it left for the other one, among the last switches
    screen.until("second")
    screen.until("ok")
    screen.press("q")
    assert screen.finish() == 0
    assert screen.raw.rstrip().endswith(CLOSES) or CLOSES in screen.raw
    assert "Traceback" not in screen.text


def test_ctrl_c_ends_it_without_a_traceback(shell: Shell) -> None:
    screen = watch(shell)
    screen.press("\x03")
    assert screen.finish() == 130
    assert CLOSES in screen.raw
    assert "Traceback" not in screen.text


def test_a_gateway_that_goes_and_one_that_comes(shell: Shell) -> None:
    screen = watch(shell, width=160)
    gateway = shell.gateway
    assert gateway is not None
    gateway.kill()
    screen.until("Lost the gateway at ")
    screen.until("Trying again. What follows is from then.")
    screen.until("first")  # it shows what it knew

    assert shell.run("start", "--yes", "--detach").code == 0
    screen.until(f"{shell.home.url}, local, up ")
    screen.press("q")
    assert screen.finish() == 0
    assert "Traceback" not in screen.text


def test_a_narrow_window_without_colours(shell: Shell) -> None:
    screen = watch(shell, width=44, NO_COLOR="1")
    screen.press("q")
    assert screen.finish() == 0
    assert COLOUR.search(screen.raw) is None
    assert "TOK/S" not in screen.text
    assert re.search(r"first +awake", screen.text)


def test_colours_where_there_may_be_some(shell: Shell) -> None:
    screen = watch(shell)
    screen.press("q")
    assert screen.finish() == 0
    assert COLOUR.search(screen.raw)
    assert "TOK/S" in screen.text


def test_without_a_terminal_it_is_told_once(shell: Shell) -> None:
    done = shell.run("top")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^first +awake", done.out, re.MULTILINE)
    assert "\x1b" not in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())


def test_once_on_a_terminal(shell: Shell) -> None:
    screen = Screen(shell, "top", "--once", size=(40, 110))
    screen.until("awake")
    assert screen.finish() == 0
    assert OPENS not in screen.raw


def test_as_json_with_rates(shell: Shell) -> None:
    asking = shell.begin("top", "--json")
    eventually(lambda: shell.home.chat("first").is_success and asking.poll() is not None)
    out, _ = asking.communicate()
    told = json.loads(out)

    assert asking.returncode == 0
    assert set(told) == {"running", "url", "health", "status", "history", "rates"}
    assert told["status"]["model"] == "first"
    assert told["rates"]["first"]["requests"] > 0
    assert told["rates"]["first"]["tokens"] > told["rates"]["first"]["requests"]
    assert told["rates"]["second"] == {"requests": 0.0, "tokens": 0.0}


def test_where_no_gateway_runs(shell: Shell) -> None:
    shell.run("stop")
    done = shell.run("top")
    assert (done.code, done.out) == (69, "")
    assert "The gateway does not run." in done.err
