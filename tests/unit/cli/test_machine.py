"""What a machine offers of the catalog, and why not the rest."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from llm_backend.cli.machine import Machine, Offer
from llm_backend.cli.project import open_project
from llm_backend.config.catalog import RuntimeKind
from tests.unit.cli.conftest import MODELS, write_catalog

LLAMA = {"kind": "llama.cpp"}
HUB = MODELS["absent"]["weights"]


def offer_of(root: Path, setup: Any = "local", **fields: Any) -> Offer:
    """Return the offer of a model that is `tiny` with other fields."""
    write_catalog(root, {"it": MODELS["tiny"] | {"aliases": []} | fields})
    project = open_project()
    return Machine(project).offer(project.model("it"), setup)


def test_a_model_that_is_all_here_is_ready(root: Path) -> None:
    offer = offer_of(root)

    assert offer.ready
    assert offer.obstacle is None
    assert offer.runtimes == (RuntimeKind.PROCESS,)
    assert offer.as_json()["ready"] is True


def test_a_model_for_containers_names_the_setup(root: Path) -> None:
    offer = offer_of(root, runtimes=["docker"], engine={"kind": "vllm", "container": "x"})

    assert offer.obstacle == "it runs on docker, which the set-up local does not have."


def test_a_model_for_processes_does_not_run_in_compose(root: Path) -> None:
    offer = offer_of(root, setup="compose")

    assert offer.obstacle == "it runs on process, which the set-up compose does not have."


def test_a_model_that_needs_more_than_the_machine_has(root: Path) -> None:
    offer = offer_of(root, memory_mib={"awake": 16_000_000})

    assert not offer.fits
    assert offer.obstacle is not None
    assert offer.obstacle.startswith("it needs 16000000 MiB on cpu, which has ")


def test_a_device_of_the_catalog_can_be_smaller_than_the_machine(root: Path) -> None:
    write_catalog(
        root,
        {"it": MODELS["tiny"] | {"memory_mib": {"awake": 20}}},
        devices={"cpu": {"kind": "cpu", "memory_mib": 10}},
    )
    project = open_project()

    offer = Machine(project).offer(project.model("it"), "local")

    assert offer.obstacle == "it needs 20 MiB on cpu, which has 10 MiB."


def test_a_gpu_that_is_not_there(root: Path) -> None:
    write_catalog(
        root,
        {"it": MODELS["tiny"] | {"devices": ["gpu7"]}},
        devices={"gpu7": {"kind": "cuda", "index": 63}},
    )
    project = open_project()
    machine = Machine(project)

    assert machine.gpus == []
    assert machine.offer(project.model("it"), "local").obstacle == (
        "its device gpu7 is not in this machine."
    )


def test_weights_that_can_be_fetched_are_no_obstacle(root: Path) -> None:
    offer = offer_of(root, engine={"kind": "command", "argv": ["x", "{weights}"]}, weights=HUB)

    assert (offer.obstacle, offer.downloaded, offer.fetchable) == (None, False, True)
    assert offer.size_mib == 1229
    assert not offer.ready


def test_weights_that_cannot_be_fetched_are(root: Path) -> None:
    weights = {"source": "path", "path": "/nowhere/weights.gguf"}

    offer = offer_of(root, engine=LLAMA, weights=weights)

    assert offer.obstacle is not None
    assert "/nowhere/weights.gguf" in offer.obstacle


def test_llama_cpp_that_is_not_installed_is_an_obstacle_before_any_download(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_backend.engines.llamacpp.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    offer = offer_of(root, engine=LLAMA, weights=HUB)

    assert offer.obstacle is not None
    assert "ARM64" in offer.obstacle


@pytest.mark.parametrize("python", [None, "/nowhere/bin/python"])
def test_vllm_that_is_not_installed_is_an_obstacle_before_any_download(
    root: Path, python: str | None
) -> None:
    offer = offer_of(root, engine={"kind": "vllm", "python": python}, weights=HUB)

    assert offer.obstacle is not None
    assert offer.obstacle.startswith("vLLM is not installed for ")
    assert offer.obstacle.endswith(f"{python or 'python'}.")
