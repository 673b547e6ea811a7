"""What the shell offers on Tab."""

from __future__ import annotations

from pathlib import Path

from llm_backend.cli.options import complete_model, complete_source


def test_models_are_completed(root: Path) -> None:
    assert list(complete_model("")) == ["tiny", "absent", "huge", "boxed"]
    assert list(complete_model("b")) == ["boxed"]


def test_logs_are_completed(root: Path) -> None:
    assert list(complete_source("a")) == ["all", "absent"]
    assert list(complete_source("g")) == ["gateway"]


def test_a_broken_catalog_completes_nothing_and_breaks_nothing(root: Path) -> None:
    (root / "config" / "models.yaml").write_text("models: [")

    assert list(complete_model("t")) == []
