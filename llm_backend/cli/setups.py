"""Which set-up this machine can run, and what the other one lacks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_backend.cli.options import Setup
from llm_backend.config.catalog import RuntimeKind
from llm_backend.errors import SetupError
from llm_backend.gpu.base import GpuSnapshot

DOCKER_ANSWER_S = 10
"""How long the docker command may take; a hung engine never answers."""
LOCAL_INSTEAD = "Without containers: llm-backend start --setup local"

RUNTIMES: dict[Setup, frozenset[RuntimeKind]] = {
    "local": frozenset({RuntimeKind.PROCESS, RuntimeKind.EXTERNAL}),
    "compose": frozenset({RuntimeKind.DOCKER, RuntimeKind.EXTERNAL}),
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

    Args:
        wanted: `local`, `compose` or `auto`.
        root: The project.
        gpus: Reads the NVIDIA GPUs of this machine.

    Raises:
        SetupError: compose is wanted and something it needs is missing.
    """
    if wanted == "local":
        return Choice("local", "as asked for")
    missing = next((check for check in compose_checks(root, gpus) if not check.ok), None)
    if missing is None:
        return Choice("compose", "Docker, an NVIDIA GPU and docker-compose.yml are there")
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
        lambda: _gpu(gpus()),
        lambda: _compose_file(root),
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
    if code == 0 and version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 2:
        return Check("docker compose", ok=True, detail=f"version {version}")
    return Check(
        "docker compose",
        ok=False,
        detail="Docker Compose version 2 is not installed.",
        next="Type: sudo apt-get install -y docker-compose-plugin",
    )


def _gpu(gpus: Sequence[GpuSnapshot]) -> Check:
    if gpus:
        shown = ", ".join(f"{gpu.name} with {gpu.total_mib} MiB" for gpu in gpus)
        return Check("NVIDIA GPU", ok=True, detail=shown)
    return Check(
        "NVIDIA GPU",
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
    """Run docker; return its exit status and what it wrote."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            timeout=DOCKER_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()
