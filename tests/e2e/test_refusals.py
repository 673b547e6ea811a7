"""What keeps the compose set-up from starting: one clear message, the next step, nothing left."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.plain_engine import EMPTY_IMAGE, plain_engine
from tests.e2e.stack import IMAGES, Stack, docker

pytestmark = [pytest.mark.docker, pytest.mark.slow]

START = ("start_all", "--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")


@pytest.fixture
def machine(stack: Stack) -> Iterator[Stack]:
    """The set-up, whose environment a test may spoil."""
    kept = dict(stack.environment)
    yield stack
    stack.environment = kept


def refusal(machine: Stack, status: int = 1) -> str:
    """Start; return what is said about why it does not."""
    done = machine.script(*START, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_no_gpu(machine: Stack, tmp_path: Path) -> None:
    with plain_engine(tmp_path) as environment:
        machine.environment["DOCKER_HOST"] = environment["DOCKER_HOST"]
        machine.environment.update(dict.fromkeys(IMAGES, EMPTY_IMAGE))
        said = refusal(machine)
        left = docker("--host", environment["DOCKER_HOST"], "ps", "--all", "--quiet").stdout
    assert "could not select device driver" in said
    assert "Install the NVIDIA Container Toolkit" in said
    assert left == ""


def test_no_docker_engine(machine: Stack, tmp_path: Path) -> None:
    machine.environment["DOCKER_HOST"] = f"unix://{tmp_path}/docker.sock"
    said = refusal(machine)
    assert "docker" in said.lower()
    assert "systemctl start docker" in said


def test_no_docker_program(machine: Stack, tmp_path: Path) -> None:
    tools = ("bash", "dirname", "readlink", "id", "sh", "uname", "env", "nvidia-smi")
    for tool in tools:
        if found := shutil.which(tool):
            (tmp_path / tool).symlink_to(found)
    machine.environment["PATH"] = str(tmp_path)
    said = refusal(machine)
    assert "docker command is not installed" in said
    assert "https://docs.docker.com/engine/install/" in said


@pytest.mark.parametrize("name", ["GATEWAY_PORT", "GRAFANA_PORT", "QWEN_14B_PORT"])
def test_a_port_in_use(machine: Stack, name: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(machine.ports[name])))
        other.listen()
        said = refusal(machine)
    assert f"Port {machine.ports[name]} " in said
    assert name in said
    assert machine.containers() == []


def test_an_image_that_no_registry_has(machine: Stack) -> None:
    # Port 9 discards: whatever asks a registry there is refused at once.
    machine.environment["VLLM_IMAGE"] = "127.0.0.1:9/vllm/vllm-openai:v0.33.0"
    said = refusal(machine)
    assert "127.0.0.1:9" in said
    assert "The registry cannot be reached" in said
    assert machine.containers() == []
