"""A person with an empty home who does what `llm-backend doctor` says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.harness import REPOSITORY

INSTALL_S = 300.0
UV = Path(sys.executable).with_name("uv")
STEPS = 4
QUESTION = "What is the capital of France? Answer with one word."


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Shell(Protocol):
    """Where lines are typed."""

    def type(self, line: str) -> Done:
        """Run a line in a shell."""

    def good(self, line: str) -> str:
        """Run a line that must succeed; return what it printed."""


def build_wheel(folder: Path) -> Path:
    """Build the product's wheel."""
    subprocess.run(
        [UV, "build", "--quiet", "--wheel", "--out-dir", folder, REPOSITORY],
        check=True,
        timeout=INSTALL_S,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def what_doctor_says(shell: Shell) -> str:
    """Return the command that doctor names: what mends the first fault, else what comes next."""
    done = shell.type("llm-backend doctor")
    following = re.search(r"^Next: (.+)$", done.out, re.MULTILINE)
    if done.code == 0 and following is not None:
        return following[1]
    mending = re.search(r"^-- .*\b[Tt]ype: (.+)$", done.out, re.MULTILINE)
    assert mending is not None, done.out
    return mending[1]


def follow_doctor(shell: Shell) -> list[str]:
    """Type what doctor says until it says to start; return what was typed."""
    typed: list[str] = []
    while (line := what_doctor_says(shell)) != "llm-backend start":
        assert line not in typed, typed
        assert len(typed) < STEPS, typed
        typed.append(line)
        shell.good(line)
    return typed


def first_answer(shell: Shell) -> str:
    """Start, ask, stop; return the answer."""
    shell.good("llm-backend start --detach")
    line = f"llm-backend generate {shlex.quote(QUESTION)} --max-tokens 8 --temperature 0"
    answer = shell.good(line)
    assert "Stopped the gateway" in shell.good("llm-backend stop")
    return answer
