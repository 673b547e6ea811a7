"""The entries that the how-tos give to copy are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_backend.config.catalog import Catalog, CommandEngine, ExternalEngine
from llm_backend.config.checks import check
from llm_backend.config.settings import Settings
from llm_backend.engines import kind_of

ROOT = Path(__file__).parents[3]
DEVICES = {"gpu0": {"memory_mib": 16303}, "cpu": {"kind": "cpu"}}


def blocks(page: str) -> list[dict[str, Any]]:
    text = (ROOT / "docs/howto" / page).read_text(encoding="utf-8")
    found = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in found]


def catalog(page: str) -> Catalog:
    parts = blocks(page)
    devices = {n: d for part in parts for n, d in part.get("devices", {}).items()}
    models = {n: m for part in parts if "devices" not in part for n, m in part.items()}
    return Catalog.model_validate({"devices": {**DEVICES, **devices}, "models": models})


@pytest.mark.feature("catalog entries for other engines")
def test_the_entries_for_other_engines() -> None:
    entries = catalog("other-engines.md")

    assert set(entries.models) == {"llama-server", "transformers", "sglang", "ollama", "qwen3-npu"}
    assert all(isinstance(spec.engine, CommandEngine) for spec in entries)
    assert check(Settings(), entries) == []
    shown = [probe.name for probe in kind_of(entries.models["qwen3-npu"]).health]
    assert shown == ["tokenizer", "model", "npu"]


@pytest.mark.feature("catalog entries for servers elsewhere")
def test_the_entries_for_servers_elsewhere() -> None:
    entries = catalog("external-servers.md")

    assert len(entries.models) == 5
    assert all(isinstance(spec.engine, ExternalEngine) for spec in entries)
    assert check(Settings(), entries) == []
    groups = {spec.exclusivity_group for spec in entries}
    assert len(groups) == len(entries.models), "all may be awake at once"


def test_the_commented_entry_of_the_catalog() -> None:
    text = (ROOT / "config/models.yaml").read_text(encoding="utf-8")
    comment = text[text.index("  # desk-14b:") :].replace("  # ", "")
    (entry,) = yaml.safe_load(comment).items()

    model = Catalog.model_validate({"models": dict([entry])})

    assert check(Settings(), model) == []
