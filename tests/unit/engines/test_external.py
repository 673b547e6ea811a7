"""Servers that somebody else runs: address and key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import plan_for
from llm_backend.engines.base import Server
from llm_backend.errors import EngineStartFailed
from llm_backend.weights.store import Store


def spec(**engine: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "id": "far",
            "runtimes": ["external"],
            "capabilities": ["chat"],
            "devices": ["cluster"],
            "engine": {"kind": "external", **engine},
        }
    )


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://host", ("host", 80, False)),
        ("http://host:8000", ("host", 8000, False)),
        ("https://api.example", ("api.example", 443, True)),
        ("https://[::1]:9", ("::1", 9, True)),
    ],
)
def test_the_address_is_taken_apart(
    tmp_path: Path, base_url: str, address: tuple[str, int, bool]
) -> None:
    plan = plan_for(spec(base_url=base_url), Store(tmp_path))

    assert (plan.host, plan.port, plan.tls) == address
    assert (plan.key, plan.argv) == (None, ())


def test_the_server_s_own_name_for_the_model_is_used(tmp_path: Path) -> None:
    plan = plan_for(spec(base_url="http://host", served_name="Org/Model"), Store(tmp_path))

    assert plan.served_name == "Org/Model"


def key_file(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_key_comes_from_its_file(tmp_path: Path) -> None:
    key = key_file(tmp_path / "key", "sk-1\n")

    plan = plan_for(spec(base_url="http://host", key_file=key), Store(tmp_path))

    assert plan.key == "sk-1"


def test_each_replica_has_its_own_key(tmp_path: Path) -> None:
    replicas = [
        {"base_url": "http://two:8000"},
        {"base_url": "https://three", "key_file": key_file(tmp_path / "three", "sk-3")},
    ]
    key = key_file(tmp_path / "key", "sk-1")

    plan = plan_for(spec(base_url="http://one", key_file=key, replicas=replicas), Store(tmp_path))

    assert plan.key == "sk-1"
    assert plan.replicas == (Server("two", 8000), Server("three", 443, tls=True, key="sk-3"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = key_file(tmp_path / "key", "sk-1", mode)

    with pytest.raises(EngineStartFailed, match=f"has the mode {mode:04o}") as caught:
        plan_for(spec(base_url="http://host", key_file=key), Store(tmp_path))

    assert caught.value.hint == f"Let its owner alone read it: chmod 600 {key}"


@pytest.mark.parametrize("text", ["", " \n", "two words", "two\nlines"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    key = key_file(tmp_path / "key", text)

    with pytest.raises(EngineStartFailed, match="is not one word"):
        plan_for(spec(base_url="http://host", key_file=key), Store(tmp_path))


@pytest.mark.parametrize("kind", ["nothing", "pipe", "directory", "unreadable"])
def test_a_key_that_cannot_be_read_is_told_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    if kind == "pipe":
        os.mkfifo(path, 0o600)  # reading it would wait for a writer
    elif kind == "directory":
        path.mkdir(0o700)
    elif kind == "unreadable":
        path.write_bytes(b"\xff\xfe")
        path.chmod(0o600)

    with pytest.raises(EngineStartFailed, match=f"cannot be read from {path}: ") as caught:
        plan_for(spec(base_url="http://host", key_file=str(path)), Store(tmp_path))

    assert "correct `key_file` in the catalog" in str(caught.value.hint)


def test_only_what_changes_answers_is_in_the_fingerprint(tmp_path: Path) -> None:
    def digest(**engine: Any) -> str:
        made = spec(**{"base_url": "http://host", **engine})
        return plan_for(made, Store(tmp_path)).fingerprint

    same = [{"replicas": [{"base_url": "http://b"}]}, {"health_interval_s": 1.0}]
    assert {digest(**engine) for engine in same} == {digest()}
    others = [{"revision": "2"}, {"base_url": "http://c"}, {"served_name": "x"}]
    assert len({digest(**engine) for engine in others} | {digest()}) == 4


def test_it_takes_no_device_and_excludes_nobody() -> None:
    one = spec(base_url="http://host").model_copy(update={"devices": ()})
    other = one.model_copy(update={"id": "other"})

    assert one.exclusivity_group != other.exclusivity_group


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineStartFailed) as caught:
        plan_for(spec(base_url="http://host", key_file="/nowhere/key"), Store(tmp_path))

    assert "The key of 'far' cannot be read from /nowhere/key" in caught.value.message
    assert "`key_file`" in (caught.value.hint or "")
