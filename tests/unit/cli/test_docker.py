"""Calling docker: what it says, what is made of its silence, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from llm_backend.cli import docker
from llm_backend.cli.docker import NOT_FOUND, TIMED_OUT, ask, work
from tests.unit.cli.fake_docker import FakeDocker


def test_an_answer_has_status_and_both_streams(fake_docker: FakeDocker, tmp_path: Path) -> None:
    fake_docker.answers("compose up", 3, " out \n", "err")

    answer = ask("compose", "up", cwd=tmp_path)

    assert (answer.code, answer.out, answer.err, answer.ok) == (3, "out", "err", False)
    assert fake_docker.calls[-1]["cwd"] == str(tmp_path)


def test_work_hands_on_each_line_of_both_streams(fake_docker: FakeDocker) -> None:
    fake_docker.answers("pull", 0, "one\n  two", "three")
    lines: list[str] = []

    answer = work("pull", on_line=lines.append, timeout_s=30)

    assert lines == ["one", "  two", "three"]
    assert answer.out == "one\n  two\nthree"


def test_without_docker_it_says_so(root: Path) -> None:
    assert ask("version").code == NOT_FOUND
    assert work("version", on_line=lambda _: None, timeout_s=1).code == NOT_FOUND


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_one_that_hangs_is_ended(fake_docker: FakeDocker) -> None:
    fake_docker.answers("pull", -600)
    before = children()

    asked = ask("pull", "--quiet", timeout_s=0.5)
    worked = work("pull", on_line=lambda _: None, timeout_s=0.5)

    assert (asked.code, worked.code) == (TIMED_OUT, TIMED_OUT)
    assert "docker pull was not done within 0 s" in asked.err
    assert children() == before


def test_one_that_ignores_the_request_to_end_is_killed(
    fake_docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\ntrap '' INT\nwhile :; do :; done\n")
    monkeypatch.setattr(docker, "TERM_S", 0.3)
    before = children()

    assert ask("pull", timeout_s=0.5).code == TIMED_OUT
    assert children() == before


def test_ctrl_c_ends_it_too(fake_docker: FakeDocker) -> None:
    fake_docker.answers("pull", -600, "begun")
    before = children()

    def interrupt(_: str) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        work("pull", on_line=interrupt, timeout_s=60)

    assert children() == before
