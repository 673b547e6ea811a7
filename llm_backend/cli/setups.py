"""Which set-up this machine can run, and what the other one lacks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_backend.cli import docker
from llm_backend.config.catalog import RuntimeKind
from llm_backend.config.settings import Setup
from llm_backend.engines.installing import apt_command
from llm_backend.errors import SetupError
from llm_backend.gpu.base import GpuSnapshot

DOCKER_ANSWER_S = 10
"""How long the docker command may take; a hung engine never answers."""
COMPOSE_MINIMUM = (2, 24)
"""The first Compose that takes all of docker-compose.yml: an `env_file` that may be missing."""
GPU = "NVIDIA GPU"
LOCAL_INSTEAD = "Without containers: llm-backend start --setup local"

RUNTIMES: dict[Setup, frozenset[RuntimeKind]] = {
    "local": frozenset({RuntimeKind.PROCESS, RuntimeKind.EXTERNAL}),
    "compose": frozenset({RuntimeKind.DOCKER, RuntimeKind.EXTERNAL}),
    "external": frozenset({RuntimeKind.EXTERNAL}),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a set-up needs.

    Attributes:
        name: What is needed.
        ok: Whether it is there.
        detail: What was found, or what is wrong, as a sentence.
        next: What to do about it.
    """

    name: str
    ok: bool
    detail: str
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The set-up that is used, and why."""

    setup: Setup
    reason: str


def choose(wanted: str, root: Path, gpus: Callable[[], Sequence[GpuSnapshot]]) -> Choice:
    """Choose a set-up.

    Compose that is asked for goes on where no GPU is seen: what counts is whether Docker can give
    one to a container, and the start asks it.

    Args:
        wanted: `local`, `compose`, `external` or `auto`.
        root: The project.
        gpus: Reads the NVIDIA GPUs of this machine.

    Raises:
        SetupError: compose is wanted and something it needs is missing.
    """
    if wanted == "external":
        return Choice("external", "as asked for")
    if wanted == "local":
        return Choice("local", "as asked for")
    missing = next((check for check in compose_checks(root, gpus) if not check.ok), None)
    if missing is None:
        return Choice("compose", "Docker, an NVIDIA GPU and docker-compose.yml are there")
    if wanted == "compose" and missing.name == GPU:
        return Choice("compose", "as asked for")
    if wanted == "compose":
        raise SetupError(
            f"The compose set-up cannot run here: {missing.detail}",
            hint="\n".join(filter(None, (missing.next, LOCAL_INSTEAD))),
        )
    return Choice("local", f"compose cannot run here: {missing.detail}")


def compose_checks(root: Path, gpus: Callable[[], Sequence[GpuSnapshot]]) -> Iterator[Check]:
    """Yield what the compose set-up needs, in order, up to and with the first that is missing."""
    checks: tuple[Callable[[], Check], ...] = (
        _docker_command,
        _docker_engine,
        _compose_plugin,
        lambda: _compose_file(root),
        lambda: _gpu(gpus()),
    )
    for check in checks:
        result = check()
        yield result
        if not result.ok:
            return


def _docker_command() -> Check:
    path = shutil.which("docker")
    if path:
        return Check("docker command", ok=True, detail=path)
    return Check(
        "docker command",
        ok=False,
        detail="the docker command is not installed.",
        next="Install Docker Engine: https://docs.docker.com/engine/install/",
    )


def _docker_engine() -> Check:
    code, text = _docker("version", "--format", "{{.Server.Version}}")
    if code == 0:
        return Check("docker engine", ok=True, detail=f"version {text}")
    if "permission denied" in text:
        return Check(
            "docker engine",
            ok=False,
            detail="this user may not talk to the Docker engine.",
            next='Type: sudo usermod -aG docker "$USER", then log in again',
        )
    return Check(
        "docker engine",
        ok=False,
        detail="the Docker engine does not answer.",
        next="Type: sudo systemctl start docker",
    )


def _compose_plugin() -> Check:
    code, text = _docker("compose", "version", "--short")
    version = text.removeprefix("v")
    match = re.match(r"(\d+)\.(\d+)", version) if code == 0 else None
    if match is not None and (int(match[1]), int(match[2])) >= COMPOSE_MINIMUM:
        return Check("docker compose", ok=True, detail=f"version {version}")
    wanted = ".".join(map(str, COMPOSE_MINIMUM))
    have = f"Docker Compose {version} is too old" if match else "Docker Compose is not installed"
    return Check(
        "docker compose",
        ok=False,
        detail=f"{have}: {wanted} or newer is needed.",
        next=f"Type: {apt_command('docker-compose-plugin')}",
    )


def _gpu(gpus: Sequence[GpuSnapshot]) -> Check:
    if gpus:
        shown = ", ".join(f"{gpu.name} with {gpu.total_mib} MiB" for gpu in gpus)
        return Check(GPU, ok=True, detail=shown)
    return Check(
        GPU,
        ok=False,
        detail="no NVIDIA GPU with a driver is there.",
        next="If there is a card, install its driver, then look: nvidia-smi",
    )


def _compose_file(root: Path) -> Check:
    file = root / "docker-compose.yml"
    if file.is_file():
        return Check("docker-compose.yml", ok=True, detail=str(file))
    return Check("docker-compose.yml", ok=False, detail=f"there is no {file}.")


def _docker(*arguments: str) -> tuple[int, str]:
    """Ask docker; return its exit status and what it wrote."""
    answer = docker.ask(*arguments, timeout_s=DOCKER_ANSWER_S)
    return answer.code, answer.out if answer.ok else answer.err
