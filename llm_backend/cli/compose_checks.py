"""What keeps the containers from coming up, said as one sentence and the next command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from llm_backend.cli import docker
from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.docker import Answer
from llm_backend.cli.ports import port_holder, port_is_free
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import mib
from llm_backend.config.checks import check, is_loopback
from llm_backend.config.problems import refuse
from llm_backend.config.settings import Settings
from llm_backend.engines.vllm_attention import refusal as attention_refusal
from llm_backend.errors import SetupError

GPU_S = 60.0
"""How long a container may take that does nothing but ask for the GPU."""
ENGINE_IMAGE_MIB = 25 * 1024
"""What vLLM's image takes on disk, unpacked, with room for pulling it."""
IMAGE_MIB = 1024
LEAST_MIB = 512
"""What must be free in any case: logs, metrics, compiled kernels."""
TAIL_LINES = 15
_MIB = 1024 * 1024

PORTS = (
    ("prometheus", "MONITORING_ADDRESS", "PROMETHEUS_PORT"),
    ("grafana", "MONITORING_ADDRESS", "GRAFANA_PORT"),
    ("llm-qwen-vl", "ENGINES_ADDRESS", "QWEN_VL_PORT"),
    ("llm-qwen-14b", "ENGINES_ADDRESS", "QWEN_14B_PORT"),
    ("llm-qwen-coder", "ENGINES_ADDRESS", "QWEN_CODER_PORT"),
)
"""The services that publish a port besides the gateway, and the variables that say where."""


def check_before_start(project: Project, variables: ComposeEnv, running: Collection[str]) -> None:
    """Refuse a start that cannot succeed, before anything is made.

    Args:
        project: What is to start.
        variables: Those of docker-compose.yml.
        running: Services that run already; their ports are ours.

    Raises:
        SetupError: names the port, the disk or the option, and what to do.
    """
    _check_address(project, variables)
    _check_password(variables)
    for service, host, port, name in published(variables):
        if service not in running and not port_is_free(host, port):
            raise SetupError(
                f"Port {port} ({service}) is taken by {_holder(port)}.",
                hint=f"End that program, or set {name} to another port in .env.",
            )
    refuse_one(attention_problem(variables))
    _check_disk(variables)


def attention_problem(variables: ComposeEnv) -> SetupError | None:
    """Return why vLLM would end at its start with the attention that is asked for."""
    return attention_refusal(variables.get("VLLM_IMAGE"), variables.get("VLLM_ATTENTION_BACKEND"))


def refuse_one(problem: SetupError | None) -> None:
    """Raise a problem, where there is one."""
    if problem is not None:
        raise problem


def _check_password(variables: ComposeEnv) -> None:
    """Refuse a password that would mean something else in an address, or in a file of Redis."""
    if re.search(r"[^A-Za-z0-9_-]", variables.get("REDIS_PASSWORD")):
        raise SetupError(
            "REDIS_PASSWORD has other characters than letters, digits, _ and -.",
            hint="Leave it out of .env: the start generates one.",
        )


def _check_address(project: Project, variables: ComposeEnv) -> None:
    """Refuse to let other machines in without a key; the gateway would, but later."""
    host = variables.get("PUBLISH_ADDRESS")
    if is_loopback(host):
        return
    server = project.settings.server.model_copy(update={"published_host": host})
    refuse(check(_with(project.settings, server), project.catalog))


def _with(settings: Settings, server: object) -> Settings:
    return settings.model_copy(update={"server": server})


def published(variables: ComposeEnv) -> Iterator[tuple[str, str, int, str]]:
    """Yield service, address, port and the port's variable of all that is published.

    Raises:
        SetupError: a variable is no port.
    """
    for service, address, name in (("gateway", "PUBLISH_ADDRESS", "GATEWAY_PORT"), *PORTS):
        text = variables.get(name)
        if not (text.isdecimal() and 0 < int(text) < 65536):
            raise SetupError(
                f"{name} is {text!r}, and that is no port.", hint="Correct it in .env."
            )
        yield service, variables.get(address).strip("[]"), int(text), name


def _holder(port: int) -> str:
    """Return who has a port: a container by its name, else a process."""
    answer = docker.ask("ps", "--filter", f"publish={port}", "--format", "{{.Names}}")
    if answer.ok and answer.out:
        return f"the container {answer.out.splitlines()[0]}"
    return port_holder(port)


def _check_disk(variables: ComposeEnv) -> None:
    answer = docker.ask("info", "--format", "{{.DockerRootDir}}")
    place = Path(answer.out or "/")
    # Docker Desktop and engines elsewhere keep their images where this machine cannot look.
    if not answer.ok or not place.is_dir():
        return
    need = LEAST_MIB + sum(
        ENGINE_IMAGE_MIB if name == "VLLM_IMAGE" else IMAGE_MIB for name in _missing(variables)
    )
    have = shutil.disk_usage(place).free // _MIB
    if need > have:
        raise SetupError(
            f"The images need {mib(need)} in {place}, where {mib(have)} are free.",
            hint=f"Free {mib(need - have)} there, for example: docker image prune",
        )


def _missing(variables: ComposeEnv) -> list[str]:
    images = ("VLLM", "GATEWAY", "REDIS", "PROMETHEUS", "GRAFANA", "HAPROXY")
    names = [f"{name}_IMAGE" for name in images]
    return [n for n in names if not docker.ask("image", "inspect", variables.get(n)).ok]


def gpu_refusal(variables: ComposeEnv) -> SetupError | None:
    """Have Docker give a container the GPU; return why it cannot, None where it can."""
    answer = docker.ask(
        *("run", "--rm", "--network", "none", "--gpus", "device=0", "--entrypoint", "true"),
        variables.get("GATEWAY_IMAGE"),
        timeout_s=GPU_S,
    )
    if answer.ok:
        return None
    text = answer.err or answer.out
    return SetupError(
        f"Docker cannot give a container the GPU: {_last_line(text)}",
        hint=_gpu_hint(text),
    )


def _gpu_hint(text: str) -> str:
    local = "Without a GPU: llm-backend start --setup local"
    if "could not select device driver" in text or "unknown runtime" in text:
        toolkit = (
            "Install the NVIDIA Container Toolkit, then: "
            "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
        )
        return f"{toolkit}\n{local}"
    return f"If there is a card, install its driver, then look: nvidia-smi\n{local}"


def explain_failure(
    what: str, answer: Answer, detail: str = "", tail: Sequence[str] = ()
) -> SetupError:
    """Return the error for a docker command that failed.

    Args:
        what: What could not be done, as a clause.
        answer: What docker said.
        detail: What is known besides.
        tail: The log of the service that failed; else docker's own last lines are shown.
    """
    said = f"{answer.out}\n{answer.err}".strip()
    reason = detail or _last_line(answer.err or answer.out) or f"status {answer.code}"
    lines = list(tail) or said.splitlines()[-TAIL_LINES:]
    return SetupError(f"{what}: {reason.rstrip('.')}.", hint=_hint(said), log_tail=lines)


_HINTS = (
    (r"permission denied", 'Type: sudo usermod -aG docker "$USER", then log in again'),
    (r"no space left on device", "Free some space, for example: docker image prune"),
    (
        r"pull access denied|manifest unknown|not found: manifest|repository does not exist",
        "The registry has no such image: check the *_IMAGE variables in .env.",
    ),
    (
        r"dial tcp|i/o timeout|TLS handshake|no such host|failed to do request|failed to resolve",
        "The registry cannot be reached. Check the network, or name other images in .env.",
    ),
    # After the one before: Compose says so of a registry that refuses the connection, too.
    (r"[Cc]annot connect to the Docker daemon", "Type: sudo systemctl start docker"),
    (r"port is already allocated|address already in use", "See who has it: llm-backend doctor"),
    (r"could not select device driver", "See what is missing: llm-backend doctor"),
    (r"is already in use by container", "Remove that container: docker rm --force NAME"),
    (
        r"no such service|undefined network|invalid compose|yaml:",
        "See what is wrong: docker compose config -q",
    ),
)


def _hint(text: str) -> str | None:
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line and "level=warning" not in line]
    found = lines[-1] if lines else ""
    # "Run 'docker run --help' for more information" follows the reason since Docker 28.
    told = [line for line in lines if "--help" not in line]
    return (told[-1] if told else found).removeprefix("docker: ").strip()
