"""A gateway on a card that does not exist: the real way from gateway over pynvml to the C library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import GatewayHome, fake_model
from tests.nvml.library import FakeDevice, holding

CARD_MIB = 16303


def on_card(
    device: FakeDevice, root: Path, name: str, mib: int, *flags: str, holds: int = 0, **fields: Any
) -> dict[str, Any]:
    """A model of the card that reserves `mib`, and whose engine holds as much, or `holds`."""
    entry = fake_model(root, name, *flags, devices=["gpu0"], **fields)
    argv = holding(device.folder, holds or mib, *_alone(entry))
    entry["engine"] = {**entry["engine"], "argv": argv}
    return {**entry, "memory_mib": {"awake": mib}}


def beside(root: Path, name: str) -> dict[str, Any]:
    """A model of the CPU, which needs nothing of the card."""
    entry = fake_model(root, name)
    return {**entry, "engine": {**entry["engine"], "argv": _alone(entry)}}


def _alone(entry: dict[str, Any]) -> list[str]:
    """The engine without the witness of the harness: here engines may run beside each other."""
    argv: list[str] = entry["engine"]["argv"]
    return argv[argv.index("99") + 2 :]


def start_on_card(
    home: GatewayHome,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    settings: Mapping[str, Any] | None = None,
    /,
    **environment: str,
) -> None:
    """Start a gateway whose catalog has the card."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home.configure(models, **(settings or {}))
    path = home.root / "config/models.yaml"
    catalog = yaml.safe_load(path.read_text())
    catalog["devices"]["gpu0"] = {"kind": "cuda", "index": 0}
    path.write_text(yaml.safe_dump(catalog, sort_keys=False))
    home.start()
