"""Which set-up is chosen, and what compose lacks, in order. Docker is a script here."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from llm_backend.cli import setups
from llm_backend.cli.setups import choose, compose_checks
from llm_backend.errors import SetupError
from llm_backend.gpu.base import GpuSnapshot

CARD = GpuSnapshot("gpu0", "NVIDIA GeForce RTX 5080", 16303, 15000)
DOCKER = """#!/bin/sh
case "$1 $2" in
  "version --format") {version} ;;
  "compose version") {compose} ;;
  *) exit 64 ;;
esac
"""
ANSWERS = {"version": "echo 29.1.0", "compose": "echo v2.40.1"}
OLD = "echo 'unknown command: docker compose' >&2; exit 1"
DENIED = "echo 'permission denied while trying to connect to the docker API' >&2; exit 1"
DEAD = "echo 'Cannot connect to the Docker daemon' >&2; exit 1"


@pytest.fixture
def tools(root: Path, tmp_path: Path) -> Path:
    return tmp_path / "bin"


def install_docker(tools: Path, **answers: str) -> None:
    script = tools / "docker"
    script.write_text(DOCKER.format(**ANSWERS | answers))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def missing(root: Path, gpus: list[GpuSnapshot]) -> str:
    with pytest.raises(SetupError) as caught:
        choose("compose", root, lambda: gpus)
    assert caught.value.exit_code == 1
    assert str(caught.value).endswith("Without containers: llm-backend start --setup local")
    return str(caught.value)


def test_first_the_docker_command_is_missed(root: Path, tools: Path) -> None:
    text = missing(root, [])

    assert "The compose set-up cannot run here: the docker command is not installed." in text
    assert "https://docs.docker.com/engine/install/" in text


def test_then_the_engine(root: Path, tools: Path) -> None:
    install_docker(tools, version=DEAD)

    text = missing(root, [])

    assert "the Docker engine does not answer." in text
    assert "sudo systemctl start docker" in text


def test_an_engine_that_this_user_may_not_reach_is_told_apart(root: Path, tools: Path) -> None:
    install_docker(tools, version=DENIED)

    text = missing(root, [])

    assert "this user may not talk to the Docker engine." in text
    assert 'sudo usermod -aG docker "$USER"' in text


def test_a_docker_that_hangs_is_given_up(
    root: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setups, "DOCKER_ANSWER_S", 0.3)
    install_docker(tools, version="exec /bin/sleep 60")

    assert "the Docker engine does not answer." in missing(root, [])


@pytest.mark.parametrize(
    ("compose", "what"),
    [
        (OLD, "Docker Compose is not installed"),
        ("echo nonsense", "Docker Compose is not installed"),
        ("echo 1.29.2", "Docker Compose 1.29.2 is too old"),
        ("echo v2.23.3", "Docker Compose 2.23.3 is too old"),
    ],
)
def test_then_compose(root: Path, tools: Path, compose: str, what: str) -> None:
    install_docker(tools, compose=compose)

    text = missing(root, [])

    assert f"{what}: 2.24 or newer is needed." in text
    assert "apt-get install -y docker-compose-plugin" in text


def test_then_the_compose_file(root: Path, tools: Path) -> None:
    install_docker(tools)

    assert f"there is no {root}/docker-compose.yml." in missing(root, [CARD])


def test_without_a_gpu_auto_is_local(root: Path, tools: Path) -> None:
    install_docker(tools)
    (root / "docker-compose.yml").touch()

    choice = choose("auto", root, list)

    assert choice.setup == "local"
    assert choice.reason == "compose cannot run here: no NVIDIA GPU with a driver is there."


def test_compose_that_is_asked_for_leaves_the_gpu_to_docker(root: Path, tools: Path) -> None:
    install_docker(tools)
    (root / "docker-compose.yml").touch()

    assert choose("compose", root, list).setup == "compose"


def test_with_everything_there_auto_is_compose(root: Path, tools: Path) -> None:
    install_docker(tools)
    (root / "docker-compose.yml").touch()

    choice = choose("auto", root, lambda: [CARD])

    assert choice.setup == "compose"
    assert [check.detail for check in compose_checks(root, lambda: [CARD])] == [
        str(tools / "docker"),
        "version 29.1.0",
        "version 2.40.1",
        str(root / "docker-compose.yml"),
        "NVIDIA GeForce RTX 5080 with 16303 MiB",
    ]


def test_without_docker_auto_is_local_and_says_why(root: Path, tools: Path) -> None:
    choice = choose("auto", root, lambda: [CARD])

    assert choice.setup == "local"
    assert choice.reason == "compose cannot run here: the docker command is not installed."


def test_local_asks_nothing_of_docker(root: Path, tools: Path) -> None:
    install_docker(tools, version=f"touch {root}/asked")

    assert choose("local", root, lambda: [CARD]).setup == "local"
    assert not (root / "asked").exists()
