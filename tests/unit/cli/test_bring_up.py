"""Launching a gateway: up, or a clear word why not and nothing left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from llm_backend.cli import bring_up as module
from llm_backend.cli.bring_up import bring_up, check_port, port_is_free
from llm_backend.cli.control import Control, find_gateway
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.take_down import end_process
from llm_backend.errors import AlreadyRunning, SetupError
from llm_backend.runtimes.locks import gateway_lock


def children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def test_the_gateway_runs_in_a_session_of_its_own(project: Project) -> None:
    record = bring_up(project, "local", lambda *_: None)
    try:
        assert record == find_gateway(project.state_dir)
        assert record.setup == "local"
        assert record.log == str(project.gateway_log)
        assert os.getsid(record.pid) == record.pid
        assert project.gateway_log.stat().st_mode & 0o077 == 0
    finally:
        assert end_process(record.process, 30) is False
    assert find_gateway(project.state_dir) is None


def test_a_model_of_the_environment_is_for_serve_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODEL_ID", "/absent.gguf")
    monkeypatch.setenv("LLM_SERVICE_PORT", "http")
    record = bring_up(project, "local", lambda *_: None)
    try:
        with Control(record, project.state_dir) as control:
            assert "tiny" in {model["id"] for model in control.status()["models"]}
    finally:
        end_process(record.process, 30)


def test_a_gateway_that_cannot_start_says_why(project: Project) -> None:
    with gateway_lock(project.lock_dir), pytest.raises(AlreadyRunning) as caught:
        bring_up(project, "local", lambda *_: None)

    text = caught.value.text
    assert caught.value.exit_code == 75
    assert text.startswith(
        "The gateway ended at its start, with status 75.\n"
        f"Its log: {project.gateway_log}\nLast log lines"
    )
    assert f"Another gateway (pid {os.getpid()}) holds " in text


def test_a_gateway_that_does_not_answer_is_ended(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READY_S", 0.5)
    monkeypatch.setattr(module, "PROGRAM", ("/bin/sh", "-c", "echo half way; exec sleep 60"))
    monkeypatch.setenv("PATH", os.defpath)

    with pytest.raises(SetupError) as caught:
        bring_up(project, "local", lambda *_: None)

    assert "did not answer within" in caught.value.message
    assert caught.value.log_tail == ("half way",)
    assert children() == []


def test_ctrl_c_leaves_nothing(project: Project) -> None:
    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_up(project, "local", press_ctrl_c)

    assert children() == []


def test_the_log_of_the_last_start_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRAM", ("/bin/sh", "-c", "echo this; exit 1"))
    project.gateway_log.parent.mkdir(parents=True)
    project.gateway_log.write_text("before\n")

    with pytest.raises(SetupError):
        bring_up(project, "local", lambda *_: None)

    assert project.gateway_log.read_text() == "this\n"
    assert Path(f"{project.gateway_log}.1").read_text() == "before\n"


def test_a_port_that_is_taken_is_refused_with_its_holder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("LLM_SERVER__PORT", str(port))
        with pytest.raises(SetupError) as caught:
            check_port(open_project())
        assert not port_is_free("127.0.0.1", port)

    assert caught.value.message == (
        f"Port {port} is taken by {psutil.Process().name()} (process {os.getpid()})."
    )
    assert caught.value.hint == (
        "End that program, or type: LLM_SERVER__PORT=7001 llm-backend start"
    )
    assert port_is_free("127.0.0.1", port)
