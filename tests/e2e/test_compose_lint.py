"""What docker-compose.yml must never say, and what it must say for every service."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness import REPOSITORY

pytestmark = pytest.mark.docker

COMPOSE = REPOSITORY / "docker-compose.yml"
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?+])([^}]*))?\}")
GIVEN = "given-by-the-test"
"""What required variables are set to, so that a default password shows."""
ROOT_OF_HOST = re.compile(r"^/($|bin|boot|dev|etc|home|lib|proc|root|sbin|sys|usr)(/|$)")
SOCKET_HOLDER = "docker-filter"
LOOPBACK = {"127.0.0.1", "::1"}

Config = dict[str, Any]


def variables() -> Iterator[tuple[str, str, str]]:
    """Yield name, operator and word of every variable in docker-compose.yml."""
    lines = (line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#"))
    for line in lines:
        for match in VARIABLE.finditer(line):
            yield match[1], match[2] or "", match[3] or ""


def render(environment: Mapping[str, str], folder: Path = REPOSITORY) -> Config:
    """Return docker-compose.yml as Compose understands it, with no variables but these."""
    done = subprocess.run(
        ["docker", "compose", "--profile", "engines", "config", "--format", "json"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config: Config = json.loads(done.stdout)
    return config


@pytest.fixture(scope="module")
def required() -> dict[str, str]:
    """The variables that have no default, and nothing else."""
    names = {name for name, operator, _ in variables() if operator in {":?", "?"}}
    return {name: f"/{GIVEN}" if name.endswith("_DIR") else GIVEN for name in names}


@pytest.fixture(scope="module")
def config(required: dict[str, str]) -> Config:
    return render(required)


def findings(config: Config) -> list[str]:
    """Return everything that is wrong, as sentences."""
    found = []
    for name, service in config["services"].items():
        is_engine = "engines" in service.get("profiles", ())
        for rule in (exposure, power, mounts, image, secrets, upkeep):
            found += [f"{name}: {text}" for text in rule(name, service)]
        if is_engine:
            found += [f"{name}: {text}" for text in engine(service)]
    return found


def exposure(name: str, service: Config) -> Iterator[str]:
    for port in service.get("ports", ()):
        if port.get("host_ip") not in LOOPBACK:
            yield f"port {port['target']} is published on {port.get('host_ip', 'every address')}"
    for key in ("network_mode", "pid", "ipc", "uts", "userns_mode"):
        if str(service.get(key, "")).startswith(("host", "service:", "container:")):
            yield f"{key} is {service[key]}"


def power(name: str, service: Config) -> Iterator[str]:
    if service.get("privileged"):
        yield "is privileged"
    if added := service.get("cap_add"):
        yield f"has the capabilities {added}"
    if "no-new-privileges:true" not in service.get("security_opt", ()):
        yield "may gain privileges"
    if "engines" not in service.get("profiles", ()):
        if service.get("cap_drop") != ["ALL"]:
            yield "keeps capabilities"
        if not service.get("read_only"):
            yield "can write to its root"


def mounts(name: str, service: Config) -> Iterator[str]:
    for mount in service.get("volumes", ()):
        source = mount.get("source", "")
        holds_socket = source.endswith(("/run", "docker.sock"))
        if holds_socket and name != SOCKET_HOLDER:
            yield "holds Docker's socket"
        if mount["type"] == "bind" and ROOT_OF_HOST.match(source):
            yield f"mounts {source} of the machine"


def image(name: str, service: Config) -> Iterator[str]:
    tag = service["image"].rpartition("/")[2].partition("@")[0].partition(":")[2]
    if tag in {"", "latest", "main", "stable", "nightly"}:
        yield f"the image {service['image']} is not pinned"


def secrets(name: str, service: Config) -> Iterator[str]:
    for key, value in (service.get("environment") or {}).items():
        inside = re.search(r"://[^:@/]*:([^@/]*)@", value or "")
        secret = inside[1] if inside else value if SECRET.search(key) else None
        if secret is not None and secret != GIVEN:
            yield f"{key} has a value that is not generated"
    if any(GIVEN in str(part) for key in ("command", "entrypoint") for part in service[key] or ()):
        yield "shows a secret on its command line"


def upkeep(name: str, service: Config) -> Iterator[str]:
    options = service.get("logging", {}).get("options", {})
    if not {"max-size", "max-file"} <= set(options):
        yield "its log grows without end"
    # The filter's image has no program that could ask it; whoever needs it notices.
    if "healthcheck" not in service and name != SOCKET_HOLDER:
        yield "has no health check"


def engine(service: Config) -> Iterator[str]:
    if service.get("restart") != "no":
        yield "Docker itself may start it"
    if service["environment"].get("HF_HUB_OFFLINE") != "1":
        yield "may download while it serves"
    if "llm-backend.engine" not in service.get("labels", {}):
        yield "has no label of its own"
    devices = service["deploy"]["resources"]["reservations"]["devices"]
    if [device["driver"] for device in devices] != ["nvidia"]:
        yield "reserves no GPU"
    models = [mount for mount in service["volumes"] if mount["target"] == "/models"]
    if service["environment"].get("HF_HOME") != "/models" or not models:
        yield "does not see the weights"


def test_nothing_is_wrong(config: Config) -> None:
    assert findings(config) == []


def test_engines_that_can_sleep_are_reached_by_the_gateway_alone(
    config: Config, required: dict[str, str]
) -> None:
    files = "docker-compose.yml:docker-compose.sleep.yml"
    sleepy = render({**required, "COMPOSE_FILE": files, "GPU_MEMORY_UTILIZATION": "0.8"})
    awake = render({**required, "GPU_MEMORY_UTILIZATION": "0.8"})

    assert findings(sleepy) == []
    assert sleepy["services"].keys() == config["services"].keys()
    engines = [n for n, s in sleepy["services"].items() if "engines" in s.get("profiles", ())]
    assert len(engines) == 3
    for name in engines:
        before, after = awake["services"][name], sleepy["services"][name]
        assert not after.get("ports")
        assert after["environment"].pop("VLLM_SERVER_DEV_MODE") == "1"
        after["command"].remove("--enable-sleep-mode")
        assert {**after, "ports": None} == {**before, "ports": None}
    assert all("DEV_MODE" not in str(service) for service in awake["services"].values())


SPOILERS: dict[str, Callable[[Config], object]] = {
    "published on 0.0.0.0": lambda s: s["gateway"]["ports"][0].update(host_ip="0.0.0.0"),
    "published on every address": lambda s: s["llm-qwen-vl"]["ports"][0].pop("host_ip"),
    "network_mode is host": lambda s: s["redis"].update(network_mode="host"),
    "is privileged": lambda s: s["gateway"].update(privileged=True),
    "has the capabilities": lambda s: s["gateway"].update(cap_add=["SYS_ADMIN"]),
    "may gain privileges": lambda s: s["grafana"].pop("security_opt"),
    "keeps capabilities": lambda s: s["redis"].pop("cap_drop"),
    "can write to its root": lambda s: s["gateway"].pop("read_only"),
    "holds Docker's socket": lambda s: s["gateway"]["volumes"].append(
        {"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}
    ),
    "mounts /etc of the machine": lambda s: s["gateway"]["volumes"].append(
        {"type": "bind", "source": "/etc", "target": "/x"}
    ),
    "latest is not pinned": lambda s: s["redis"].update(image="redis:latest"),
    "myimage is not pinned": lambda s: s["redis"].update(image="registry.example:5000/myimage"),
    "GF_SECURITY_ADMIN_PASSWORD has a value": lambda s: s["grafana"]["environment"].update(
        GF_SECURITY_ADMIN_PASSWORD="admin"
    ),
    "LLM_CACHE__REDIS_URL has a value": lambda s: s["gateway"]["environment"].update(
        LLM_CACHE__REDIS_URL="redis://gateway:hello@redis:6379/0"
    ),
    "shows a secret": lambda s: s["redis"].update(command=["--requirepass", GIVEN]),
    "log grows": lambda s: s["prometheus"].pop("logging"),
    "has no health check": lambda s: s["gateway"].pop("healthcheck"),
    "Docker itself may start it": lambda s: s["llm-qwen-14b"].update(restart="unless-stopped"),
    "may download": lambda s: s["llm-qwen-vl"]["environment"].pop("HF_HUB_OFFLINE"),
    "reserves no GPU": lambda s: s["llm-qwen-vl"]["deploy"]["resources"]["reservations"].update(
        devices=[]
    ),
    "does not see the weights": lambda s: s["llm-qwen-coder"].update(volumes=[]),
    "has no label": lambda s: s["llm-qwen-coder"].update(labels={}),
}


@pytest.mark.parametrize("finding", SPOILERS)
def test_what_is_wrong_is_found(config: Config, finding: str) -> None:
    spoiled = copy.deepcopy(config)
    SPOILERS[finding](spoiled["services"])
    found = findings(spoiled)
    assert len(found) == 1, found
    assert finding in found[0]


def test_it_is_valid_with_and_without_the_example_as_env(
    tmp_path: Path, required: dict[str, str]
) -> None:
    (tmp_path / "docker-compose.yml").write_bytes(COMPOSE.read_bytes())
    bare = render(required, tmp_path)
    (tmp_path / ".env").write_bytes((REPOSITORY / ".env.example").read_bytes())
    assert render(required, tmp_path) == bare


def test_without_what_the_first_start_generates_it_says_what_to_type() -> None:
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "bash scripts/start_all.sh --setup compose" in done.stderr


def test_every_variable_is_explained_and_no_secret_is_given() -> None:
    example = (REPOSITORY / ".env.example").read_text()
    explained = dict(re.findall(r"^#?(\w+)=(.*)$", example, re.MULTILINE))
    # Found out by each start: nobody sets them.
    own = {"LLM_BACKEND_SOURCE", "ENGINE_OPTIONS", "MODELS_DIR", "LLM_UID", "LLM_GID"}
    unexplained = {name for name, _, _ in variables()} - set(explained) - own
    assert unexplained == set()
    given = {name: value for name, value in explained.items() if SECRET.search(name) and value}
    assert given == {}


def test_the_defaults_in_the_example_are_those_of_the_file() -> None:
    example = (REPOSITORY / ".env.example").read_text()
    explained = dict(re.findall(r"^#(\w+)=(\S+)$", example, re.MULTILINE))
    defaults = {
        name: word for name, operator, word in variables() if operator in {":-", "-"} and word
    }
    wrong = {
        name: (explained[name], word)
        for name, word in defaults.items()
        if name in explained and explained[name] != word and "$" not in word
    }
    assert wrong == {}
