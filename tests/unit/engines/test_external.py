"""Servers that somebody else runs: address and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import plan_for
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


def test_the_key_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")

    plan = plan_for(spec(base_url="http://host", key_file=str(tmp_path / "key")), Store(tmp_path))

    assert plan.key == "sk-1"


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineStartFailed) as caught:
        plan_for(spec(base_url="http://host", key_file="/nowhere/key"), Store(tmp_path))

    assert "The key of 'far' cannot be read from /nowhere/key" in caught.value.message
    assert "`key_file`" in (caught.value.hint or "")
