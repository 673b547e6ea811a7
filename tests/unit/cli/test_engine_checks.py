"""Options, catalog, card and containers of the engines: what agrees, and what is said if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.engine_checks import attention_check, fits, option_problems, stale_containers
from llm_backend.cli.machine import Machine
from llm_backend.cli.project import Project, open_project
from llm_backend.errors import SetupError
from llm_backend.weights.store import Store, VerifiedFile
from tests.unit.cli.conftest import MODELS, Command, write_catalog
from tests.unit.cli.fake_docker import FakeDocker

OPTIONS = {
    "model": "org/name",
    "served-model-name": "boxed",
    "host": "0.0.0.0",
    "port": 8000,
    "max-model-len": 16384,
    "gpu-memory-utilization": 0.90,
}
CONFIG = {
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "hidden_size": 5120,
    "num_key_value_heads": 8,
}
COMMIT = "c" * 40
HASH = "com.docker.compose.config-hash"


@pytest.fixture
def boxed(root: Path) -> Project:
    """A project whose model in a container looks like qwen-14b on a card of 16 GB."""
    entry = MODELS["boxed"] | {
        "engine": {
            "kind": "vllm",
            "container": "llm-boxed",
            "config_file": "config/engines/b.yaml",
        },
        "weights": {"source": "hub", "repo": "org/name", "size_mib": 9513},
        "devices": ["gpu0"],
        "max_model_len": 16384,
        "port": 8000,
        "memory_mib": {"awake": 14672},
    }
    devices = {"gpu0": {"kind": "cuda", "memory_mib": 16303}}
    write_catalog(root, {"boxed": entry}, devices=devices)
    (root / "config" / "engines").mkdir()
    write_options(root)
    return open_project()


def write_options(root: Path, **changes: Any) -> None:
    (root / "config" / "engines" / "b.yaml").write_text(json.dumps(OPTIONS | changes))


def put_weights(project: Project) -> None:
    store = Store(project.models_dir)
    folder = store.snapshot("org/name", COMMIT)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"")
    files = {p.name: VerifiedFile(p.stat().st_size, "") for p in folder.iterdir()}
    store.remember_revision("org/name", COMMIT)
    store.remember_verified("org/name", COMMIT, files, whole=True)


# Options and catalog


def test_options_that_agree_are_no_problem(boxed: Project) -> None:
    assert list(option_problems(boxed)) == []


def test_options_that_contradict_the_catalog_are_a_wrong_configuration(
    boxed: Project, command: Command, root: Path
) -> None:
    write_options(root, port=8001)

    result = command("config", "check")

    assert result.code == 78
    assert "config/engines/b.yaml: boxed: port is 8001, and the catalog says 8000" in result.err


# Containers


@pytest.fixture
def made(boxed: Project, fake_docker: FakeDocker) -> FakeDocker:
    """A container that is as it would be made now."""
    ComposeEnv(boxed).prepare([])
    fake_docker.answers("config --hash", 0, "gateway 1\nllm-boxed 2")
    inspected(fake_docker, boxed)
    fake_docker.answers("image inspect {{.Id}}", 0, "sha256:1")
    return fake_docker


def inspected(fake_docker: FakeDocker, project: Project, **changes: Any) -> None:
    options = ComposeEnv(project).current("ENGINE_OPTIONS")
    found = {
        "image": ComposeEnv(project).get("VLLM_IMAGE"),
        "id": "sha256:1",
        "labels": {HASH: "2", "llm-backend.options": options},
    } | changes
    config = {"Image": found["image"], "Labels": found["labels"]}
    container = [{"Image": found["id"], "Config": config}]
    fake_docker.answers("container inspect llm-boxed", 0, json.dumps(container))


def test_a_container_as_it_would_be_made_now_is_left(boxed: Project, made: FakeDocker) -> None:
    assert stale_containers(boxed) == {}


def test_changed_options_want_a_new_container(
    boxed: Project, made: FakeDocker, command: Command, root: Path
) -> None:
    write_options(root, **{"max-num-seqs": 12})

    result = command("config", "check")

    assert result.code == 1
    assert result.out.endswith(
        "The container llm-boxed has to be made anew: config/engines/ has changed since it was "
        "made.\nType: llm-backend stop, then: llm-backend start --setup compose\n"
    )
    assert command("config", "check", "--json").json["stale_containers"].keys() == {"llm-boxed"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "vllm/vllm-openai:v0.1"}, "it was made of the image vllm/vllm-openai:v0.1"),
        ({"id": "sha256:0"}, "is another one now"),
        ({"labels": None}, "config/engines/ has changed"),
        ({"labels": {HASH: "1"}}, "config/engines/ has changed"),
    ],
)
def test_other_changes_too(
    boxed: Project, made: FakeDocker, changes: dict[str, Any], reason: str
) -> None:
    inspected(made, boxed, **changes)

    assert reason in stale_containers(boxed)["llm-boxed"]


def test_a_changed_compose_file_too(boxed: Project, made: FakeDocker) -> None:
    made.answers("config --hash", 0, "llm-boxed 3")

    assert "docker-compose.yml or .env has changed" in stale_containers(boxed)["llm-boxed"]


def test_one_that_is_missing_is_named(boxed: Project, made: FakeDocker) -> None:
    made.answers("container inspect", 1, "", "No such container")
    assert stale_containers(boxed) == {"llm-boxed": "it has not been made"}
    made.answers("config --services", 0, "gateway")
    assert stale_containers(boxed) == {"llm-boxed": "docker-compose.yml has no such service"}


# Card


def test_memory_is_computed_from_the_weights_that_are_here(boxed: Project, root: Path) -> None:
    (check,) = fits(boxed, Machine(boxed))
    assert check.ok
    assert "9.3 GiB of weights" in check.detail
    assert "tokens" not in check.detail

    put_weights(boxed)

    (check,) = fits(boxed, Machine(boxed))
    assert "of cache for " in check.detail


def test_a_share_of_the_card_that_is_too_small_is_said(
    boxed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_MEMORY_UTILIZATION", "0.60")

    (check,) = fits(boxed, Machine(boxed))

    assert not check.ok
    assert "(0.60 of 15.9 GiB)" in check.detail
    assert "leave nothing for the cache" in check.detail
    assert str(check.next).endswith("config/engines/b.yaml")


def test_a_reservation_that_is_not_the_share_is_said(
    boxed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_MEMORY_UTILIZATION", "0.85")

    (check,) = fits(boxed, Machine(boxed))

    assert not check.ok
    assert "But the catalog reserves 14672 MiB for it." in check.detail
    assert check.next == "In config/models.yaml set memory_mib.awake of boxed to 13857"


def test_a_share_that_leaves_others_too_little_is_said(
    boxed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_MEMORY_UTILIZATION", "0.92")

    (check,) = fits(boxed, Machine(boxed))

    assert not check.ok
    assert "are more than the 14.4 GiB that models may take of gpu0" in check.detail
    assert str(check.next).startswith("Set gpu-memory-utilization to 0.90 or less in ")


def test_a_share_that_is_none_is_refused(boxed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_MEMORY_UTILIZATION", "most")

    with pytest.raises(SetupError, match="GPU_MEMORY_UTILIZATION is 'most'"):
        list(fits(boxed, Machine(boxed)))


# Attention


def test_attention_that_the_image_refuses_is_said(
    boxed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attention_check(boxed).ok
    monkeypatch.setenv("VLLM_IMAGE", "vllm/vllm-openai:v0.9.2")

    check = attention_check(boxed)

    assert not check.ok
    assert "vllm/vllm-openai:v0.9.2" in check.detail


def test_the_doctor_shows_both(
    boxed: Project, fake_docker: FakeDocker, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("LLM_SETUP", "compose")

    result = command("doctor")

    assert "ok  attention: TORCH_SDPA is asked for" in result.out
    assert "ok  memory of boxed: 14.3 GiB (0.90 of 15.9 GiB): 9.3 GiB of weights" in result.out
