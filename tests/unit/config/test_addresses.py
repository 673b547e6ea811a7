"""Addresses and paths of servers: what is none is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.config import load_catalog
from llm_backend.config.catalog import Catalog
from llm_backend.errors import ConfigError

ELSEWHERE = """\
models:
  far:
    runtimes: [external]
    engine: {{kind: external, base_url: "{address}", ready_path: "{ready_path}"}}
    capabilities: [chat]
"""


def load(root: Path, text: str) -> Catalog:
    path = root / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalog(path)


@pytest.mark.parametrize(
    "address",
    ["http://host", "https://hô.example:443", "http://gpu_1.lan:65535", "http://[::1]:8000"],
)
def test_addresses_of_servers_elsewhere(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, ELSEWHERE.format(address=address, ready_path="/health")) is not None


@pytest.mark.parametrize(
    "address",
    [
        "http://host:abc",
        "http://host:",
        "http://host:0",
        "http://host:65536",
        "http://:8000",
        "http://::1:8000",
        "http://[::1",
        "http://[1:2]:8000",
        "http://host/v1",
        "http://host?x=1",
        "http://me@host",
    ],
)
def test_what_is_no_address_is_refused_before_anything_starts(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address such as http://host:8000"):
        load(tmp_path, ELSEWHERE.format(address=address, ready_path="/health"))


@pytest.mark.parametrize("path", ["health", "http://host/health", "/he alth", "/\\n"])
def test_what_is_no_path_is_refused_before_anything_starts(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"ready_path: .* is not a path such as /health"):
        load(tmp_path, ELSEWHERE.format(address="http://host", ready_path=path))
