"""The compose set-up agrees with the catalog and the documents.

What docker-compose.yml must never say: tests/e2e/test_compose_lint.py. What the dashboards ask:
test_monitoring.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_backend.config import load_catalog
from llm_backend.config.catalog import Catalog, ModelSpec, RuntimeKind, VllmEngine
from tests.house.project import Project

VALUES = {
    "REDIS_PASSWORD": "x",
    "GRAFANA_ADMIN_PASSWORD": "x",
    "LLM_STATE_DIR": "/state",
    "MODELS_DIR": "/models",
}
"""What the first start generates and finds out."""


@pytest.fixture(scope="module")
def compose(project: Project) -> dict[str, Any]:
    text = project.text(project.root / "docker-compose.yml")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def catalog(project: Project) -> Catalog:
    return load_catalog(project.root / "config" / "models.yaml")


def engines(catalog: Catalog) -> Iterator[tuple[str, ModelSpec]]:
    for spec in catalog.runnable(frozenset({RuntimeKind.DOCKER})):
        assert isinstance(spec.engine, VllmEngine)
        assert spec.engine.container
        yield spec.engine.container, spec


def test_the_engines_are_those_of_the_catalog(services: dict[str, Any], catalog: Catalog) -> None:
    for name, spec in engines(catalog):
        service = services[name]
        assert service["container_name"] == name
        assert service["labels"]["llm-backend.engine"] == spec.id
        assert service["profiles"] == ["engines"]
        assert service["restart"] == "no"
        assert service["environment"]["HF_HUB_OFFLINE"] == "1"
        assert service["environment"]["PORT"] == str(spec.port)
        assert service["ports"][0].endswith(f":-{spec.port}}}:{spec.port}")
        file = f"./config/engines/{spec.id}.yaml:/etc/llm-backend/engine.yaml:ro"
        assert file in service["volumes"]
        assert service["networks"] == ["engines"]
    names = services["docker-filter"]["environment"]["ENGINE_CONTAINERS"].split("|")
    assert sorted(names) == sorted(dict(engines(catalog)))


def test_redis_and_the_filter_are_on_networks_of_their_own(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    assert {n for n, net in compose["networks"].items() if net and net.get("internal")} == {
        "cache",
        "control",
    }
    assert services["redis"]["networks"] == ["cache"]
    assert services["docker-filter"]["networks"] == ["control"]
    assert "ports" not in services["redis"]
    assert "ports" not in services["docker-filter"]


def test_redis_has_the_rights_that_are_documented(project: Project) -> None:
    page = project.text(project.root / "docs" / "explanation" / "cache.md")
    script = project.text(project.root / "config" / "redis" / "start.sh")
    settings = project.text(project.root / "config" / "redis" / "redis.conf")
    (documented,) = re.findall(r"^user gateway on >PASSWORD (.+)$", page, re.MULTILINE)

    assert re.findall(r"^user (.+)$", script, re.MULTILINE) == [
        "default off",
        f"gateway on >$REDIS_PASSWORD {documented}",
    ]
    assert {"maxmemory-policy allkeys-lru", 'save ""', "appendonly no"} <= set(
        settings.splitlines()
    )
    assert re.search(r"^maxmemory \d+mb$", settings, re.MULTILINE)


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
@pytest.mark.parametrize("dotenv", ["", "VLLM_IMAGE=a/b:1\nGPU_MEMORY_UTILIZATION=0.85\n"])
def test_the_share_of_the_card_in_dotenv_wins_over_the_options_file(
    project: Project, tmp_path: Path, dotenv: str
) -> None:
    shutil.copy(project.root / "docker-compose.yml", tmp_path)
    if dotenv:
        (tmp_path / ".env").write_text(dotenv)
    done = subprocess.run(
        ["docker", "compose", "--profile", "engines", "config", "--format", "json"],
        cwd=tmp_path,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), **VALUES},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    engine = json.loads(done.stdout)["services"]["llm-qwen-14b"]
    share = ["--gpu-memory-utilization", "0.85"] if dotenv else []
    assert engine["command"] == ["--config", "/etc/llm-backend/engine.yaml", *share]
    assert engine["image"] == ("a/b:1" if dotenv else "vllm/vllm-openai:v0.33.0")


# What is watched


def test_prometheus_asks_the_gateway_and_the_engines_that_it_names(
    project: Project, services: dict[str, Any]
) -> None:
    config = yaml.safe_load(project.text(project.root / "monitoring/prometheus/prometheus.yml"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}

    assert jobs["gateway"]["static_configs"] == [{"targets": ["gateway:7000"]}]
    (discovery,) = jobs["engines"]["http_sd_configs"]
    assert discovery["url"] == "http://gateway:7000/metrics/engines"
    assert {"edge", "engines"} <= set(services["prometheus"]["networks"])
