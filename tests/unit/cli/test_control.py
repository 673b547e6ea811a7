"""Finding the gateway, and what its answers and its silence become."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llm_backend.cli.control import Control, find_gateway, read_record, require_gateway
from llm_backend.cli.project import Project
from llm_backend.errors import ConnectionFailed, EngineStartFailed, InvalidKey, LLMBackendError
from tests.unit.cli.stand_in import KEY, StandIn, write_record


def test_a_record_of_a_living_process_is_a_gateway(tmp_path: Path) -> None:
    write_record(tmp_path, url="http://127.0.0.1:7000/")

    record = find_gateway(tmp_path)

    assert record is not None
    assert record.pid == os.getpid()
    assert record.url == "http://127.0.0.1:7000"


def test_a_process_that_took_over_the_number_is_no_gateway(tmp_path: Path) -> None:
    write_record(tmp_path, create_time=psutil.Process().create_time() - 100)

    assert find_gateway(tmp_path) is None
    assert read_record(tmp_path) is not None


def test_an_ended_process_is_no_gateway_even_unburied(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        write_record(
            tmp_path, pid=process.pid, create_time=psutil.Process(process.pid).create_time()
        )
        assert find_gateway(tmp_path) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert find_gateway(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_broken_record_is_no_gateway(tmp_path: Path, text: str) -> None:
    (tmp_path / "gateway.json").write_text(text)

    assert find_gateway(tmp_path) is None


@pytest.mark.parametrize(
    ("listens", "called"),
    [
        ("http://0.0.0.0:7000", "http://127.0.0.1:7000"),
        ("http://[::]:7000", "http://[::1]:7000"),
        ("http://192.168.0.2:7000", "http://192.168.0.2:7000"),
    ],
)
def test_a_gateway_that_listens_everywhere_is_called_on_loopback(
    tmp_path: Path, listens: str, called: str
) -> None:
    write_record(tmp_path, url=listens)

    record = read_record(tmp_path)

    assert record is not None
    assert record.url == called


def test_without_a_gateway_the_next_command_is_start(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        require_gateway(tmp_path)

    assert str(caught.value) == "The gateway does not run. Type: llm-backend start"


def test_calls_carry_the_admin_key(gateway: StandIn, project: Project) -> None:
    with control_of(project) as control:
        assert control.is_live()
        assert control.status()["model"] == "tiny"
        assert control.unload(5) == ["tiny"]
        assert control.clear_cache("tiny") == {"cleared": 3}

    assert {request.key for request in gateway.received} == {KEY}
    assert gateway.received[-1].body == {"model": "tiny"}


def test_a_proxy_of_the_environment_is_not_asked(
    gateway: StandIn, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    with control_of(project) as control:
        assert control.is_live()


def test_an_error_of_the_gateway_keeps_its_class_and_words(
    gateway: StandIn, project: Project
) -> None:
    message = "The engine exited with status 1."
    gateway.refuse("GET", "/status", 503, "engine_start_failed", message)

    with control_of(project) as control, pytest.raises(EngineStartFailed) as caught:
        control.status()

    assert caught.value.message == message


def test_a_wrong_key_says_where_keys_are(gateway: StandIn, project: Project) -> None:
    gateway.refuse("GET", "/status", 401, "invalid_api_key", "This key is not known.")

    with control_of(project) as control, pytest.raises(InvalidKey) as caught:
        control.status()

    assert "admin.key" in str(caught.value)


@pytest.mark.parametrize("status", [200, 404, 502])
@pytest.mark.parametrize("answer", ["<html>It works!</html>", "[]"])
def test_an_answer_of_another_program_is_named_as_such(
    gateway: StandIn, project: Project, status: int, answer: str
) -> None:
    gateway.answers["GET", "/status"] = (status, answer)

    with control_of(project) as control, pytest.raises(LLMBackendError) as caught:
        control.status()

    assert f"{gateway.url}/status" in str(caught.value)
    assert str(status) in str(caught.value)


def test_a_gateway_that_does_not_answer_is_named_with_its_process(project: Project) -> None:
    write_record(project.state_dir, url="http://127.0.0.1:1")

    with control_of(project) as control:
        assert not control.is_live()
        with pytest.raises(ConnectionFailed) as caught:
            control.status()

    assert f"(process {os.getpid()}) does not answer at http://127.0.0.1:1" in str(caught.value)
    assert "llm-backend logs gateway" in str(caught.value)


def test_a_gateway_that_takes_too_long_is_given_up(gateway: StandIn, project: Project) -> None:
    gateway.held.add("/api/v1/inference/unload")
    gateway.hold.clear()

    with control_of(project) as control, pytest.raises(ConnectionFailed) as caught:
        control.unload(0.2)

    assert "did not answer within" in str(caught.value)


def control_of(project: Project) -> Control:
    return Control(require_gateway(project.state_dir), project.state_dir)


def test_a_gateway_in_a_container_is_there_as_long_as_it_answers(
    gateway: StandIn, project: Project
) -> None:
    """Its process id means nothing here: it counts inside its container."""
    write_record(project.state_dir, setup="compose", pid=7, create_time=0, url=gateway.url)

    record = require_gateway(project.state_dir)

    assert (record.process, record.where) == (None, "its container")
    gateway.answers["GET", "/health/live"] = (503, {})
    assert find_gateway(project.state_dir) is None
    write_record(project.state_dir, setup="compose", url="http://127.0.0.1:1")
    assert find_gateway(project.state_dir) is None


def test_the_log_of_an_engine_is_asked_for_with_the_admin_key(
    gateway: StandIn, project: Project
) -> None:
    gateway.answers["GET", "/logs/a/b?lines=3"] = (200, "one\ntwo\n")

    with control_of(project) as control:
        assert control.log("a/b", 3) == ["one", "two"]

    assert gateway.received[-1].key == KEY
