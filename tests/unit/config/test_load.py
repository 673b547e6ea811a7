"""Which value counts, and what loading refuses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from llm_backend.config import Settings, load_catalog, load_settings
from llm_backend.config.catalog import RuntimeKind
from llm_backend.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    return tmp_path


def write_settings(root: Path, text: str) -> None:
    (root / "config" / "gateway.yaml").write_text(text, encoding="utf-8")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_without_any_file_the_defaults_hold(root: Path) -> None:
    settings = load_settings(root, environ={})
    assert settings.server.port == 7000
    assert settings.limits == Settings().limits
    assert settings.origin("server", "port").kind == "default"


SOURCES = ("flag", "environment", ".env", "file", "default")
PORTS = {"flag": 7001, "environment": 7002, ".env": 7003, "file": 7004, "default": 7000}


def load_with(root: Path, present: tuple[str, ...]) -> Settings:
    if "file" in present:
        write_settings(root, f"\nserver:\n  port: {PORTS['file']}\n")
    if ".env" in present:
        (root / ".env").write_text(f"\nLLM_SERVER__PORT={PORTS['.env']}\n", encoding="utf-8")
    environ = {"LLM_SERVER__PORT": str(PORTS["environment"])} if "environment" in present else {}
    flags = {"server.port": PORTS["flag"] if "flag" in present else None}
    return load_settings(root, flags, environ)


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(SOURCES, 2)))
def test_the_stronger_of_two_sources_counts(root: Path, stronger: str, weaker: str) -> None:
    settings = load_with(root, (stronger, weaker))
    origin = settings.origin("server", "port")
    assert (settings.server.port, origin.kind) == (PORTS[stronger], stronger)


@pytest.mark.parametrize(
    ("source", "where", "name"),
    [
        ("flag", "flag", "server.port"),
        ("environment", "environment", "LLM_SERVER__PORT"),
        (".env", ".env:2", "LLM_SERVER__PORT"),
        ("file", "config/gateway.yaml:3", "server.port"),
        ("default", "default", "server.port"),
    ],
)
def test_a_value_knows_where_it_was_set(root: Path, source: str, where: str, name: str) -> None:
    origin = load_with(root, (source,)).origin("server", "port")
    assert (origin.where, origin.name) == (where, name)


def test_settings_of_one_section_come_from_several_sources(root: Path) -> None:
    write_settings(root, "limits:\n  queue: 5\n  messages: 6\n")
    settings = load_settings(root, {"limits.headers": 7}, {"LLM_LIMITS__QUEUE": "8"})
    limits = settings.limits
    assert (limits.queue, limits.messages, limits.headers, limits.body_mib) == (8, 6, 7, 32)


def test_a_list_comes_whole_from_one_source(root: Path) -> None:
    write_settings(root, "server:\n  allowed_hosts: [a, b, c]\n")
    settings = load_settings(root, environ={"LLM_SERVER__ALLOWED_HOSTS": "d"})
    assert settings.server.allowed_hosts == ("d",)
    assert settings.origin("server", "allowed_hosts", 2).kind == "environment"


def test_null_of_a_stronger_source_takes_back_a_value(root: Path) -> None:
    write_settings(root, "switching:\n  preload: a\n")
    assert load_settings(root, environ={}).switching.preload == "a"
    environ = {"LLM_SWITCHING__PRELOAD": "null"}
    assert load_settings(root, environ=environ).switching.preload is None


def test_an_empty_section_is_no_section(root: Path) -> None:
    write_settings(root, "server:\n  # port: 7001\nlimits:\n  queue: 5\n")
    assert load_settings(root, environ={}).limits.queue == 5


def test_the_environment_of_the_process_is_the_default(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SERVER__PORT", "7009")
    assert load_settings(root).server.port == 7009


def test_paths_are_absolute_and_start_at_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    write_settings(root, "state_dir: ~/state\nmodels_dir: weights\ncatalog: /etc/models.yaml\n")
    settings = load_settings(Path(), environ={})
    assert settings.state_dir == Path("/home/me/state")
    assert settings.lock_dir == Path("/home/me/state/locks")
    assert settings.models_dir == root / "weights"
    assert settings.catalog == Path("/etc/models.yaml")


def test_a_lock_directory_of_its_own(root: Path) -> None:
    settings = load_settings(root, {"lock_dir": Path("locks")}, {})
    assert settings.lock_dir == root / "locks"


def test_a_recording_of_arrivals_lies_in_the_state_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(path: str) -> Path | None:
        flags = {"state_dir": Path("state"), "switching.record": Path(path)}
        return load_settings(root, flags, {}).switching.record

    monkeypatch.setenv("HOME", "/home/me")
    assert record("day.jsonl") == root / "state" / "day.jsonl"
    assert record("~/day.jsonl") == Path("/home/me/day.jsonl")
    assert record("/traces/day.jsonl") == Path("/traces/day.jsonl")
    assert "switching.record" in refusal(lambda: record("~nobody-here/day.jsonl"))


def test_problems_of_all_sources_come_together(root: Path) -> None:
    write_settings(root, "server: {port: x}\n")
    (root / ".env").write_text("LLM_CACHE__MODE=of\nLLM_CACHE__TTL=1\n", encoding="utf-8")
    flags = {"server.prot": 1, "limits.queue": 0}
    environ = {"LLM_SERVER__PORT": "70000", "LLM_SERVER_HOST": "x"}
    said = refusal(lambda: load_settings(root, flags, environ))
    assert said.splitlines() == [
        "config/gateway.yaml:1: server.port: 'x' is not a whole number from 0 to 65535",
        (
            ".env:1: LLM_CACHE__MODE: 'of' is not one of 'deterministic', 'all', 'off'; "
            "did you mean 'off'?"
        ),
        ".env:2: LLM_CACHE__TTL: there is no such setting; did you mean 'LLM_CACHE__TTL_S'?",
        "environment: LLM_SERVER_HOST: there is no such setting; did you mean 'LLM_SERVER__HOST'?",
        "environment: LLM_SERVER__PORT: 70000 is not a whole number from 0 to 65535",
        "flag: server.prot: unknown key; did you mean 'port'?",
        "flag: limits.queue: 0 is not a whole number of at least 1",
    ]


def test_a_wrong_value_is_an_error_even_where_a_stronger_one_counts(root: Path) -> None:
    write_settings(root, "server: {port: x}\n")
    assert "config/gateway.yaml:1" in refusal(lambda: load_settings(root, {"server.port": 1}, {}))


def test_a_section_is_no_flag(root: Path) -> None:
    said = refusal(lambda: load_settings(root, {"servr.port": 1}, {}))
    assert said == "flag: servr: unknown key; did you mean 'server'?"


CATALOG = """\
default: [big, small]
devices: {gpu0: {}, cpu: {kind: cpu}}
models:
  small:
    aliases: [s]
    runtimes: [process]
    engine: {kind: llama.cpp}
    weights: {source: path, path: /w.gguf}
    capabilities: [chat]
    devices: [cpu]
  other:
    runtimes: [external]
    engine: {kind: external, base_url: 'http://host:8000'}
    capabilities: [chat]
    devices: [gpu0]
    group: theirs
  big:
    runtimes: [docker]
    engine: {kind: vllm, container: llm-big}
    capabilities: [chat]
    devices: [gpu0, cpu]
    memory_mib: {awake: 5, asleep-1: 3}
"""


def write_catalog(root: Path, text: str = CATALOG) -> Path:
    path = root / "config" / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_catalog(root: Path) -> None:
    catalog = load_catalog(write_catalog(root))
    assert [spec.id for spec in catalog] == ["small", "other", "big"]
    assert catalog.models["big"].memory_mib.asleep_1 == 3
    assert catalog.origin("models", "big", "devices", 1).where == "config/models.yaml:21"


def test_a_model_is_found_by_id_and_alias(root: Path) -> None:
    catalog = load_catalog(write_catalog(root))
    found = [catalog.find(name) for name in ("small", "s", "nope")]
    assert [spec and spec.id for spec in found] == ["small", "small", None]


def test_exclusivity_groups(root: Path) -> None:
    catalog = load_catalog(write_catalog(root))
    assert [spec.exclusivity_group for spec in catalog] == ["cpu", "theirs", "cpu+gpu0"]


@pytest.mark.parametrize(
    ("runtimes", "default"),
    [
        ({RuntimeKind.DOCKER, RuntimeKind.PROCESS}, "big"),
        ({RuntimeKind.PROCESS}, "small"),
        ({RuntimeKind.EXTERNAL}, "other"),
        (set(), None),
    ],
)
def test_the_default_is_the_first_that_can_run(
    root: Path, runtimes: set[RuntimeKind], default: str | None
) -> None:
    spec = load_catalog(write_catalog(root)).default_for(frozenset(runtimes))
    assert (spec and spec.id) == default


@pytest.mark.parametrize(
    ("line", "default"), [("default: small", ("small",)), ("default: null", ()), ("", ())]
)
def test_a_single_default_and_none(root: Path, line: str, default: tuple[str, ...]) -> None:
    text = CATALOG.replace("default: [big, small]", line)
    assert load_catalog(write_catalog(root, text)).default == default


def test_a_missing_catalog(root: Path) -> None:
    assert refusal(lambda: load_catalog(root / "config" / "models.yaml")) == (
        "config/models.yaml: no such file. Set LLM_CATALOG, or 'catalog' in config/gateway.yaml, "
        "to the file that lists the models."
    )


def test_an_empty_catalog(root: Path) -> None:
    said = refusal(lambda: load_catalog(write_catalog(root, "# nothing\n")))
    assert said == "config/models.yaml:1: the file is empty; it needs devices and models."


def test_a_catalog_without_models(root: Path) -> None:
    said = refusal(lambda: load_catalog(write_catalog(root, "devices: {}\n")))
    assert said == "config/models.yaml:1: 'models' is missing"


def test_dotenv_that_is_a_directory(root: Path) -> None:
    (root / ".env").mkdir()
    said = refusal(lambda: load_settings(root, environ={}))
    assert said == ".env: cannot be read: Is a directory."


def leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= (
            leaves(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return found


def test_the_settings_file_of_the_product_shows_every_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    settings = load_settings(ROOT, environ={})
    names = leaves(Settings().model_dump())
    kinds = {name: settings.origin(*name.split(".")).kind for name in names}
    assert set(kinds.values()) == {"file"}
    expected = load_settings(ROOT / "tests", environ={}).model_dump()
    assert leaves(settings.model_dump()) == leaves(expected) | {
        "catalog": ROOT / "config" / "models.yaml"
    }


def test_the_catalog_of_the_product_is_right() -> None:
    catalog = load_catalog(ROOT / "config" / "models.yaml")
    local, compose = frozenset({RuntimeKind.PROCESS}), frozenset({RuntimeKind.DOCKER})
    here, there = catalog.default_for(local), catalog.default_for(compose)
    assert here is not None
    assert there is not None
    assert (here.id, there.id) == ("smollm2-long", "qwen-vl")
    for spec in catalog.runnable(compose):
        assert spec.memory_mib.awake == round(0.9 * (catalog.devices["gpu0"].memory_mib or 0))
