"""Command lines of the catalog with their blanks filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import plan_for
from llm_backend.errors import EngineStartFailed
from llm_backend.weights.store import Store


def spec(argv: list[str], **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "id": "my/model",
            "runtimes": ["process"],
            "capabilities": ["chat"],
            "devices": ["cpu"],
            "engine": {"kind": "command", "argv": argv, "working_directory": "/srv"},
            "environment": {"A": "1"},
            **changes,
        }
    )


def test_weights_and_name_are_filled_in_and_the_port_is_left(tmp_path: Path) -> None:
    argv = ["serve", "--model={weights}", "{served_name}", "{port}", '{"json": "{port}"}']
    weights = {"source": "path", "path": str(tmp_path)}

    plan = plan_for(spec(argv, weights=weights, port=5), Store(tmp_path))

    assert plan.argv == ("serve", f"--model={tmp_path}", "my/model", "{port}", '{"json": "{port}"}')
    assert (plan.port, plan.cwd, plan.env) == (5, "/srv", {"A": "1"})


def test_a_blank_for_weights_that_the_model_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineStartFailed, match=r"uses \{weights\}, and the model names none"):
        plan_for(spec(["serve", "{weights}"]), Store(tmp_path))


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    weights = {"source": "path", "path": "/nowhere"}

    with pytest.raises(EngineStartFailed, match="there is nothing at /nowhere"):
        plan_for(spec(["serve"], weights=weights), Store(tmp_path))
