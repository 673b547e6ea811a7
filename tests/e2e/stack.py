"""The compose set-up as a person has it: a checkout of its own, driven by the scripts.

Only what a test machine forces differs: stand-in images, free ports, a state directory of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
from dotenv import dotenv_values

from llm_backend.cli.bootstrap import Environment
from llm_backend.config import load_catalog
from llm_backend.config.catalog import HubWeights
from llm_backend.runtimes.ports import free_port
from llm_backend.weights.store import Store, VerifiedFile
from tests.harness import PATIENCE_S, REPOSITORY

GROUND = Path(__file__).parent / "ground"
OVERRIDE = Path(__file__).parent / "compose.test.yaml"
PROJECT = "llm-backend-e2e"
ENGINES = {"qwen-vl": "llm-qwen-vl", "qwen-14b": "llm-qwen-14b", "qwen-coder": "llm-qwen-coder"}
"""The container of each model."""
IMAGES = {
    "PYTHON_IMAGE": "standin/python:ground",
    "VLLM_IMAGE": "standin/vllm:ground",
    "REDIS_IMAGE": "standin/redis:ground",
    "PROMETHEUS_IMAGE": "standin/prometheus:ground",
    "GRAFANA_IMAGE": "standin/grafana:ground",
    "HAPROXY_IMAGE": "standin/haproxy:ground",
    "GATEWAY_IMAGE": "llm-backend-gateway:e2e",
}
PORTS = (
    *("GATEWAY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"),
    *("QWEN_VL_PORT", "QWEN_14B_PORT", "QWEN_CODER_PORT"),
)
PARTS = ("llm_backend", "config", "monitoring", "scripts", "requirements")
FILES = (
    "docker-compose.yml",
    "docker-compose.sleep.yml",
    "Dockerfile",
    ".dockerignore",
    ".env.example",
    "pyproject.toml",
)
START_S = 300.0
"""How long a whole start may take: the gateway's image may have to be built."""


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stderr}"
    return done


def make_checkout(root: Path) -> None:
    """Copy what a person clones; the environment borrows the packages of this one."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, root / part, ignore=ignore)
    for file in FILES:
        shutil.copy(REPOSITORY / file, root / file)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    site = next((root / ".venv" / "lib").glob("python3*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = Environment(root)
    stamp = environment._digest(root / "requirements" / "base.txt")
    (root / ".venv" / "base.installed").write_text(stamp)


def put_weights(models_dir: Path, catalog: Path, folders: Mapping[str, Path]) -> None:
    """Put weights of the engines' models where a download would.

    Args:
        models_dir: The directory of weights.
        catalog: Says which repositories.
        folders: Those with the files of a model; every other model gets a file of a few bytes.
    """
    store = Store(models_dir)
    for model, spec in load_catalog(catalog).models.items():
        if model not in ENGINES:
            continue
        assert isinstance(spec.weights, HubWeights)
        commit = spec.weights.revision or "0" * 40
        folder = store.snapshot(spec.weights.repo, commit)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        for file in folders[model].iterdir() if model in folders else ():
            shutil.copyfile(file, folder / file.name)  # without its mode: others read it too
        files = {p.name: VerifiedFile(p.stat().st_size, "") for p in folder.iterdir()}
        store.remember_revision(spec.weights.repo, commit)
        store.remember_verified(spec.weights.repo, commit, files, whole=True)


def free_ports(names: Sequence[str]) -> dict[str, str]:
    """Return a free port for each name."""
    return {name: str(free_port("127.0.0.1")) for name in names}


class Stack:
    """One compose set-up, its directories and its scripts.

    Attributes:
        root: The checkout.
        state_dir: Its state directory.
        environment: What the scripts run with; a test may change it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.state_dir = folder / "state"
        self.models_dir = folder / "models"
        self.standin_dir = folder / "standin"
        self.standin_dir.mkdir(parents=True)
        make_checkout(self.root)
        put_weights(self.models_dir, self.root / "config" / "models.yaml", {})
        self.ports = free_ports(PORTS)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "VIRTUAL_ENV"))}
        self.environment = {
            **kept,
            **IMAGES,
            **self.ports,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": f"docker-compose.yml:{OVERRIDE}",
            "STANDIN_DIR": str(self.standin_dir),
            "LLM_STATE_DIR": str(self.state_dir),
            "LLM_MODELS_DIR": str(self.models_dir),
            "NO_COLOR": "1",
        }

    def script(
        self, name: str, *arguments: str, within_s: float = START_S, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the checkout, as a person would."""
        command: list[str | Path] = ["bash", self.root / "scripts" / f"{name}.sh", *arguments]
        return self._run(command, within_s, check=check)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the checkout's `llm-backend`."""
        return self._run([self.root / ".venv/bin/llm-backend", *arguments], START_S, check=check)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run docker compose with the variables that the last start left."""
        values = {k: v for k, v in dotenv_values(self.state_dir / "compose.env").items() if v}
        return self._run(["docker", "compose", *arguments], START_S, values, check=check)

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container of a service; its status may be anything."""
        return self.compose("exec", "--no-TTY", service, *command, check=False)

    def _run(
        self,
        command: Sequence[str | Path],
        within_s: float,
        values: Mapping[str, str] = MappingProxyType({}),
        *,
        check: bool,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**values, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        said = f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['GATEWAY_PORT']}"

    @property
    def admin(self) -> dict[str, str]:
        key = (self.state_dir / "admin.key").read_text().strip()
        return {"authorization": f"Bearer {key}"}

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=PATIENCE_S, trust_env=False, **options)

    def post(
        self, path: str, body: Any, within_s: float = PATIENCE_S, **options: Any
    ) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=within_s, trust_env=False, **options)

    def chat(
        self, model: str, content: Any = "Say hi", within_s: float = PATIENCE_S, **fields: Any
    ) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
        return self.post("/v1/chat/completions", {**body, **fields}, within_s)

    def faults(self, model: str, *flags: str) -> None:
        """Say how the engine of a model misbehaves from its next start on; nothing: not at all."""
        (self.standin_dir / f"{model}.flags").write_text(" ".join(flags))

    def journal(self, model: str) -> list[dict[str, Any]]:
        """Return what reached the engine of a model: the lines of its journal."""
        path = self.standin_dir / f"{model}.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def containers(self) -> list[str]:
        """Return the names of all containers of this set-up, running or not."""
        label = f"label=com.docker.compose.project={PROJECT}"
        return docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").stdout.split()

    def running_engines(self) -> list[str]:
        """Return the engines' containers that run."""
        names = docker("ps", "--format", "{{.Names}}").stdout.split()
        return sorted(set(names) & set(ENGINES.values()))


def remove_everything() -> None:
    """Remove containers, networks and volumes of the tests' project, however they came to be left."""
    label = f"label=com.docker.compose.project={PROJECT}"
    if names := docker("ps", "--all", "--quiet", "--filter", label).stdout.split():
        docker("rm", "--force", "--volumes", *names)
    for kind in ("network", "volume"):
        if names := docker(kind, "ls", "--quiet", "--filter", label).stdout.split():
            docker(kind, "rm", *names)


@contextlib.contextmanager
def new_stack(folder: Path) -> Iterator[Stack]:
    """A set-up that nothing is left of; one at a time on a machine, as engines' names are fixed."""
    with (Path(tempfile.gettempdir()) / f"{PROJECT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_everything()
        try:
            yield Stack(folder)
        finally:
            remove_everything()
