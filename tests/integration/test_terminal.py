"""The command line on a real terminal: the picker, the progress bar, Ctrl-C, narrow windows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from llm_backend.testing.hub_server import serving
from tests.harness import PATIENCE_S, REPOSITORY, fake_model, gateway_home
from tests.integration.test_cli import Shell

DOWN = "\x1b[B"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[1-7][0-9;]*m")

# In a process with threads, Python 3.12 and newer warn of every fork.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.feature("terminals of every kind"),
]


class Screen:
    """A program on a terminal of its own, and what it has written so far."""

    def __init__(self, shell: Shell, *arguments: str, size: tuple[int, int], **more: str) -> None:
        environment: Any = {
            **{k: v for k, v in shell.environment.items() if k != "NO_COLOR"},
            "TERM": "xterm-256color",
            # This terminal does not answer where its cursor is.
            "PROMPT_TOOLKIT_NO_CPR": "1",
            **more,
        }
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "llm_backend", *arguments],
            cwd=str(REPOSITORY),
            env=environment,
            dimensions=size,
            encoding="utf-8",
            timeout=PATIENCE_S,
        )
        self.raw = ""

    def until(self, text: str) -> None:
        """Read on until a text has been written."""
        self.child.expect_exact(text)
        self.raw += self.child.before + self.child.after

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def finish(self) -> int:
        """Read to the end; return the exit code."""
        self.child.expect(pexpect.EOF)
        self.raw += self.child.before
        self.child.close()
        return int(self.child.exitstatus)

    @property
    def text(self) -> str:
        """What was written, without colours and movements."""
        return ESCAPE.sub("", self.raw).replace("\r", "")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        boxed = {"runtimes": ["docker"], "engine": {"kind": "vllm", "container": "x"}}
        home.configure(
            {
                "first": fake_model(tmp_path, "first", purpose="The first of them"),
                "boxed": fake_model(tmp_path, "boxed", purpose="In a box") | boxed,
                "second": fake_model(
                    tmp_path, "second", "--load-s", "1", purpose="The second of them"
                ),
            }
        )
        shell = Shell(home)
        try:
            yield shell
        finally:
            shell.run("stop")


def test_the_first_model_is_chosen_with_the_arrow_keys(shell: Shell) -> None:
    screen = Screen(shell, "start", "--detach", size=(30, 100))
    screen.until("(arrow keys, Enter)")
    screen.until("The second of them")
    screen.press(DOWN + "\r")  # past the one that cannot run here
    screen.until("Stop it: ")
    assert screen.finish() == 0

    assert "Which model first?" in screen.text
    heading = next(line for line in screen.text.splitlines() if "MODEL" in line)
    assert heading.split() == ["MODEL", "FOR", "SIZE", "FITS", "DOWNLOADED"]
    assert re.search(r"boxed +In a box .* cannot run here", screen.text)
    assert COLOUR.search(screen.raw)
    assert shell.home.get("/status").json()["model"] == "second"


def test_switch_asks_and_shows_a_bar(shell: Shell) -> None:
    assert shell.run("start", "--yes", "--detach").code == 0
    screen = Screen(shell, "switch", size=(30, 100))
    screen.until("Which model?")
    screen.until("The second of them")
    screen.press(DOWN + "\r")
    screen.until("second is awake (")
    assert screen.finish() == 0

    assert "second: loading" in screen.text
    assert "━" in screen.text


def test_ctrl_c_at_the_table_starts_nothing(shell: Shell) -> None:
    screen = Screen(shell, "start", size=(30, 100))
    screen.until("The second of them")
    screen.press("\x03")

    assert screen.finish() == 130
    assert "Traceback" not in screen.text
    assert shell.is_clean()


def test_ctrl_c_while_a_model_loads_stops_everything(shell: Shell, tmp_path: Path) -> None:
    shell.home.configure({"slow": fake_model(tmp_path, "slow", "--never-ready")})
    screen = Screen(shell, "start", "--detach", "--yes", size=(30, 100))
    screen.until("slow: loading")
    screen.press("\x03")

    assert screen.finish() == 130
    assert "Stopped the gateway" in screen.text
    assert shell.is_clean()


def test_ctrl_c_in_the_foreground_stops_everything(shell: Shell) -> None:
    screen = Screen(shell, "start", "--yes", size=(30, 100))
    screen.until("Ctrl-C stops everything.")
    screen.press("\x03")

    assert screen.finish() == 130
    assert "Stopped the engine of first." in screen.text
    assert shell.is_clean()


def test_on_a_narrow_terminal_the_table_leaves_out_what_has_no_room(shell: Shell) -> None:
    screen = Screen(shell, "start", "--detach", size=(24, 44))
    screen.until("(arrow keys, Enter)")
    screen.until("second")
    screen.press(DOWN + "\r")
    screen.until("Stop it: ")

    assert screen.finish() == 0
    assert "of them" not in screen.text
    assert shell.home.get("/status").json()["model"] == "second"


def test_weights_are_marked_with_space_and_come_with_a_bar(shell: Shell, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "org" / "name"
    repository.mkdir(parents=True)
    (repository / "w.gguf").write_bytes(b"weights!" * 1024 * 1024)
    weights = {"source": "hub", "repo": "org/name", "file": "w.gguf", "size_mib": 8}
    entry = fake_model(tmp_path, "absent") | {"weights": weights}
    shell.home.configure({"absent": entry}, models_dir=str(tmp_path / "models"))
    with serving(tmp_path / "hub") as hub:
        screen = Screen(shell, "download", size=(30, 100), HF_ENDPOINT=hub.url)
        screen.until("absent (8 MiB)")
        screen.press(" \r")
        screen.until("absent: downloaded and verified, ")
        assert screen.finish() == 0

    assert "w.gguf" in screen.text
    assert "8 MiB of 8 MiB, " in screen.text
    assert " MiB/s, 0 s left" in screen.text


def test_no_color_is_respected(shell: Shell) -> None:
    screen = Screen(shell, "start", size=(30, 100), NO_COLOR="1")
    screen.until("The second of them")
    screen.press("\x03")
    screen.finish()
    doctor = Screen(shell, "doctor", size=(30, 100), NO_COLOR="1", HF_ENDPOINT="http://127.0.0.1:1")
    doctor.finish()

    assert COLOUR.search(screen.raw) is None
    assert COLOUR.search(doctor.raw) is None


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_an_empty_one(shell: Shell, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m llm_backend generate - {closed}"],
        cwd=REPOSITORY,
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 1
    assert ("Standard input is empty" in done.stderr) == (closed != "2>&-")


def test_letters_that_a_stream_lacks_end_nothing(shell: Shell) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm_backend", "generate", "--json", "--image", "/\u65e5"],
        cwd=REPOSITORY,
        env=shell.environment | {"PYTHONIOENCODING": "ascii"},
        input=b"soir\xe9",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 1
    assert "cannot be read" in json.loads(done.stdout)["error"]["message"]
