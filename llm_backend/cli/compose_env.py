"""The variables of docker-compose.yml: what the user set, what was found out, what was generated.

They stand in two files of the state directory, which its owner alone can read:

    compose.env   the variables, for `docker compose --env-file`; holds the generated passwords
    gateway.env   what .env and the environment say about the gateway, for its container
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values

from llm_backend.cli.project import Project
from llm_backend.config.catalog import RuntimeKind
from llm_backend.config.environment import from_dotenv, from_environment
from llm_backend.errors import SetupError

COMPOSE_ENV = "compose.env"
GATEWAY_ENV = "gateway.env"
PASSWORDS = ("REDIS_PASSWORD", "GRAFANA_ADMIN_PASSWORD")
PASSWORD_BYTES = 24
SOMEBODY = 1000
"""The user of the gateway's container where root starts it: never root."""

SLEEP_FILE = "docker-compose.sleep.yml"
"""What engines that can sleep need on top of docker-compose.yml."""

GATEWAY_PORT = 7000
MAY_BE_EMPTY = frozenset({"VLLM_ATTENTION_BACKEND", "GPU_MEMORY_UTILIZATION"})
"""Variables that mean something else when they are set to nothing."""

DEFAULTS = {
    "GPU_MEMORY_UTILIZATION": "",
    "REDIS_PASSWORD": "",
    "VLLM_IMAGE": "vllm/vllm-openai:v0.33.0",
    "VLLM_ATTENTION_BACKEND": "TORCH_SDPA",
    "GATEWAY_IMAGE": "llm-backend-gateway:local",
    "REDIS_IMAGE": "redis:8.0",
    "PROMETHEUS_IMAGE": "prom/prometheus:v3.5.0",
    "GRAFANA_IMAGE": "grafana/grafana:12.2.0",
    "HAPROXY_IMAGE": "haproxy:3.2",
    "ENGINES_ADDRESS": "127.0.0.1",
    "MONITORING_ADDRESS": "127.0.0.1",
    "PROMETHEUS_PORT": "9090",
    "GRAFANA_PORT": "3000",
    "QWEN_VL_PORT": "8000",
    "QWEN_14B_PORT": "8001",
    "QWEN_CODER_PORT": "8002",
}
"""The defaults of docker-compose.yml that a start has to know; a test holds them to it."""


class ComposeEnv:
    """The variables for one project.

    Args:
        project: Whose settings count.
        environ: The environment; by default that of this process.
    """

    def __init__(self, project: Project, environ: Mapping[str, str] | None = None) -> None:
        self._project = project
        self._environ = os.environ if environ is None else environ
        self._dotenv = _read(project.root / ".env")

    def get(self, name: str) -> str:
        """Return a variable that has a default, as docker compose will see it."""
        given = self._given(name)
        if given is not None and name in MAY_BE_EMPTY:
            return given
        server = self._project.settings.server
        own = {"PUBLISH_ADDRESS": server.host, "GATEWAY_PORT": str(server.port or GATEWAY_PORT)}
        return given or own.get(name) or DEFAULTS[name]

    def current(self, name: Literal["LLM_BACKEND_SOURCE", "ENGINE_OPTIONS"]) -> str:
        """Return a digest of files as they are now."""
        root = self._project.root
        return source_digest(root) if name == "LLM_BACKEND_SOURCE" else options_digest(root)

    def _given(self, name: str) -> str | None:
        return self._environ.get(name, self._dotenv.get(name))

    def stored(self) -> dict[str, str]:
        """Return the environment for `docker compose`, as the last start left it."""
        values = _read(self._project.state_dir / COMPOSE_ENV)
        return {**self._environ, **values, **self._set_by_user(values)}

    def prepare(self, runtimes: Iterable[str]) -> dict[str, str]:
        """Write both files, make the directories, and return the environment for `docker compose`.

        Args:
            runtimes: The runtimes that the Docker engine knows.

        Raises:
            SetupError: the catalog lies where no container sees it, or nothing can be written.
        """
        project = self._project
        self._check_catalog()
        try:
            owner = _make_directories(project)
            values = self._values(owner, runtimes)
            _write(project.state_dir / COMPOSE_ENV, values, owner)
            _write(project.state_dir / GATEWAY_ENV, self._gateway_settings(), owner)
        except OSError as error:
            raise SetupError(
                f"The state directory {project.state_dir} cannot be prepared: {error}.",
                hint="Set LLM_STATE_DIR to a directory of your own.",
            ) from None
        return {**self._environ, **values, **self._set_by_user(values)}

    def _check_catalog(self) -> None:
        catalog, config = self._project.settings.catalog, self._project.root / "config"
        if catalog != config / "models.yaml":
            raise SetupError(
                f"The catalog {catalog} is not {config / 'models.yaml'}.",
                hint="The containers see config/ and nothing else: put it there.",
            )

    def _values(self, owner: tuple[int, int], runtimes: Iterable[str]) -> dict[str, str]:
        project, server = self._project, self._project.settings.server
        before = _read(project.state_dir / COMPOSE_ENV)
        values = {name: before.get(name) or _password() for name in PASSWORDS}
        return {
            **values,
            "LLM_STATE_DIR": str(project.state_dir),
            "LLM_LOCK_DIR": str(project.lock_dir),
            "MODELS_DIR": str(project.models_dir),
            "LLM_UID": str(owner[0]),
            "LLM_GID": str(owner[1]),
            "PUBLISH_ADDRESS": f"[{server.host}]" if ":" in server.host else server.host,
            "GATEWAY_PORT": str(server.port or GATEWAY_PORT),
            "GATEWAY_RUNTIME": "nvidia" if "nvidia" in runtimes else "runc",
            "LLM_BACKEND_SOURCE": source_digest(project.root),
            "ENGINE_OPTIONS": options_digest(project.root),
            **self._files(),
        }

    def _files(self) -> dict[str, str]:
        """Return the files of compose, where docker-compose.yml alone does not do."""
        in_containers = self._project.catalog.runnable(frozenset({RuntimeKind.DOCKER}))
        if all(spec.residency == "stop" for spec in in_containers):
            return {}
        files = self._given("COMPOSE_FILE") or "docker-compose.yml"
        return {"COMPOSE_FILE": files if SLEEP_FILE in files else f"{files}:{SLEEP_FILE}"}

    def _set_by_user(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return what the user's own words change of the values; paths stay absolute."""
        fixed = {"LLM_STATE_DIR", "LLM_LOCK_DIR", "MODELS_DIR", "COMPOSE_FILE"}
        names = (name for name in values if name not in fixed)
        return {name: given for name in names if (given := self._given(name))}

    def _gateway_settings(self) -> dict[str, str]:
        dotenv, _ = from_dotenv(self._project.root / ".env", self._environ)
        variables = (*dotenv, *from_environment(self._environ))
        return {variable.name: variable.text for variable in variables if variable.text}


def source_digest(root: Path) -> str:
    """Return what changes when the gateway's image has to be built anew."""
    locks = [root / "requirements" / name for name in ("base.txt", "traces.txt")]
    return _digest(root, [root / "Dockerfile", *locks, *(root / "llm_backend").rglob("*.py")])


def options_digest(root: Path) -> str:
    """Return what changes when the engines' containers have to be made anew."""
    return _digest(root, (root / "config" / "engines").glob("*.yaml"))


def _digest(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _make_directories(project: Project) -> tuple[int, int]:
    """Make what the containers mount; return user and group of the gateway's container."""
    project.models_dir.mkdir(parents=True, exist_ok=True)
    project.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    project.lock_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    status = project.state_dir.stat()
    owner = (status.st_uid or SOMEBODY, status.st_gid or SOMEBODY)
    for top in (project.state_dir, project.lock_dir):
        for path in (top, *top.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)
    return owner


def _password() -> str:
    return secrets.token_hex(PASSWORD_BYTES)


def _read(path: Path) -> dict[str, str]:
    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def _write(path: Path, values: Mapping[str, str], owner: tuple[int, int]) -> None:
    """Replace a file that its owner alone can read, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    text = "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if os.geteuid() == 0:
        os.chown(draft, *owner)
    draft.replace(path)


def _quoted(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
