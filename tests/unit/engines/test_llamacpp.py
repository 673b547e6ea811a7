"""Launch plans for llama.cpp, and what its log says about a load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import llamacpp, plan_for
from llm_backend.engines.base import Progress
from llm_backend.engines.installing import apt_command
from llm_backend.errors import EngineStartFailed
from llm_backend.weights.store import Store, VerifiedFile

COMMIT = "a" * 40


def spec(**changes: Any) -> ModelSpec:
    fields = {
        "id": "vl",
        "runtimes": ["process"],
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "engine": {"kind": "llama.cpp"},
    }
    return ModelSpec.model_validate({**fields, **changes})


@pytest.fixture
def gguf(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return {"source": "path", "path": str(tmp_path / "m.gguf")}


def test_the_plan_runs_the_child_program_on_loopback(tmp_path: Path, gguf: dict[str, str]) -> None:
    engine = {"kind": "llama.cpp", "context": 512, "parallel": 2, "threads": 3}

    plan = plan_for(spec(weights=gguf, engine=engine), Store(tmp_path))

    assert plan.argv[0] == sys.executable
    assert plan.argv[2].endswith("llm_backend/engines/llamacpp_serve.py")
    options = dict(zip(plan.argv[3::2], plan.argv[4::2], strict=True))
    assert options == {
        "--model": gguf["path"],
        "--alias": "vl",
        "--port": "{port}",
        "--context": "512",
        "--parallel": "2",
        "--threads": "3",
        "--gpu-layers": "0",
    }
    assert plan.host == "127.0.0.1"


def test_projector_and_embeddings_are_passed_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.snapshot("org/name", COMMIT)
    folder.mkdir(parents=True)
    for name in ("m.gguf", "mmproj.gguf"):
        (folder / name).write_bytes(b"GGUF")
        store.remember_verified("org/name", COMMIT, {name: VerifiedFile(4, "0" * 64)}, whole=False)
    weights = {"source": "hub", "repo": "org/name", "revision": COMMIT, "file": "m.gguf"}

    plan = plan_for(
        spec(
            weights={**weights, "companion": "mmproj.gguf"},
            engine={"kind": "llama.cpp", "embeddings": True},
        ),
        store,
    )

    assert plan.argv[-3:] == ("--mmproj", str(folder / "mmproj.gguf"), "--embeddings")


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineStartFailed, match="'vl' names no weights"):
        plan_for(spec(), Store(tmp_path))


def test_where_the_wheel_is_missing_the_plan_says_so(
    tmp_path: Path, gguf: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)

    assert llamacpp.unavailable_reason() is not None
    with pytest.raises(EngineStartFailed, match=r"llama\.cpp cannot run 'vl' here: xllamacpp"):
        plan_for(spec(weights=gguf), Store(tmp_path))


def test_where_the_wheel_is_there_is_no_reason() -> None:
    assert llamacpp.unavailable_reason() is None


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "0.00.005.194 I srv    load_model: loading model '/m/SmolLM2.gguf'",
            Progress("loading weights"),
        ),
        (
            "0.00.600.781 I srv    load_model: initializing, n_slots = 2, n_ctx_slot = 2048",
            Progress("allocating the context"),
        ),
        ("0.00.602.465 I srv          init: model loaded", Progress("ready", 1.0)),
        ("0.00.657.661 I slot launch_slot_: id  1 | task 0 | processing task", None),
    ],
)
def test_the_log_tells_how_far_the_load_has_come(line: str, progress: Progress | None) -> None:
    assert llamacpp.progress_of(line) == progress


def test_a_missing_library_of_the_system_is_named_with_the_command_that_installs_it() -> None:
    assert llamacpp.missing_library("libc.so.6") is None
    assert llamacpp.missing_library("libnothing.so.1") == (
        "llama.cpp's server needs the system's library libnothing.so.1. "
        f"On Debian and Ubuntu type: {apt_command('libgomp1')}"
    )
