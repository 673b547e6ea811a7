"""What a start with containers refuses before anything is made."""

from __future__ import annotations

import os
import socket

import pytest

from llm_backend.cli import compose_checks
from llm_backend.cli.compose_checks import check_before_start, explain_failure, published
from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.docker import Answer
from llm_backend.cli.project import Project
from llm_backend.errors import ConfigError, SetupError
from tests.unit.cli.fake_docker import FakeDocker


def refusal(project: Project) -> SetupError:
    with pytest.raises(SetupError) as caught:
        check_before_start(project, ComposeEnv(project), ())
    return caught.value


def test_with_everything_there_nothing_is_refused(
    project: Project, fake_docker: FakeDocker
) -> None:
    check_before_start(project, ComposeEnv(project), ())

    variables = ComposeEnv(project)
    assert [name for _, _, _, name in published(variables)] == [
        *("GATEWAY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"),
        *("QWEN_VL_PORT", "QWEN_14B_PORT", "QWEN_CODER_PORT"),
    ]


@pytest.mark.parametrize("name", ["GATEWAY_PORT", "GRAFANA_PORT", "QWEN_14B_PORT"])
def test_a_port_that_is_taken_is_named_with_its_holder(
    project: Project, fake_docker: FakeDocker, name: str
) -> None:
    fake_docker.answers("ps --filter publish", 0, "")
    port = int(ComposeEnv(project).get(name))
    with socket.create_server(("127.0.0.1", port)):
        error = refusal(project)

    assert error.message.startswith(f"Port {port} (")
    assert f"(process {os.getpid()})." in error.message
    assert error.hint == f"End that program, or set {name} to another port in .env."


def test_another_container_that_has_it_is_named(project: Project, fake_docker: FakeDocker) -> None:
    port = int(ComposeEnv(project).get("PROMETHEUS_PORT"))
    fake_docker.answers(f"ps --filter publish={port}", 0, "somebodys-prometheus")
    with socket.create_server(("127.0.0.1", port)):
        assert "taken by the container somebodys-prometheus." in refusal(project).message
        check_before_start(project, ComposeEnv(project), {"prometheus"})


@pytest.mark.parametrize("port", ["", "http", "0", "65536"])
def test_what_is_no_port_is_refused(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setenv("GRAFANA_PORT", port)
    if port:
        assert refusal(project).message == f"GRAFANA_PORT is {port!r}, and that is no port."
    else:
        assert ("GRAFANA_PORT", 3000) in {(n, p) for _, _, p, n in published(ComposeEnv(project))}


def test_an_old_vllm_with_torch_sdpa_is_refused(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_IMAGE", "vllm/vllm-openai:v0.9.2")

    assert "VLLM_ATTENTION_BACKEND=TORCH_SDPA" in refusal(project).message
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "")
    check_before_start(project, ComposeEnv(project), ())


def test_a_password_that_an_address_cannot_hold_is_refused(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "a b@c")

    error = refusal(project)

    assert "REDIS_PASSWORD has other characters" in error.message
    assert "a b@c" not in str(error)


def test_other_machines_are_let_in_with_a_key_alone(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBLISH_ADDRESS", "0.0.0.0")

    error = refusal(project)

    assert isinstance(error, ConfigError)
    assert "'0.0.0.0' lets other machines in" in error.message


def test_images_that_do_not_fit_the_disk_are_refused(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose_checks, "ENGINE_IMAGE_MIB", 10**9)
    check_before_start(project, ComposeEnv(project), ())
    fake_docker.answers("image inspect vllm", 1)

    error = refusal(project)

    assert error.message.startswith("The images need ")
    assert "docker image prune" in str(error.hint)
    fake_docker.answers("info DockerRootDir", 0, "/nowhere/docker")
    check_before_start(project, ComposeEnv(project), ())


def test_a_failure_that_nobody_knows_is_shown_as_it_is() -> None:
    error = explain_failure("It broke", Answer(17, "a line\nlevel=warning x", ""))

    assert (error.message, error.hint) == ("It broke: a line.", None)
    assert error.log_tail == ("a line", "level=warning x")
    assert explain_failure("It broke", Answer(17, "", "")).message == "It broke: status 17."
