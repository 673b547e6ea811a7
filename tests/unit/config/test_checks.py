"""What only shows when settings and catalog are seen together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config import check, load_catalog, load_settings, refuse
from llm_backend.config.checks import is_loopback
from llm_backend.errors import ConfigError

ROOT = Path(__file__).parents[3]
DIGEST = "ab" * 32

CATALOG = """\
devices:
  gpu0: {kind: cuda, memory_mib: 1000}
models:
  a:
    aliases: [first]
    runtimes: [process]
    engine: {kind: llama.cpp}
    weights: {source: path, path: /w.gguf}
    capabilities: [chat]
    devices: [gpu0]
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    return tmp_path


def said(root: Path, catalog: str = CATALOG, **environ: Any) -> list[tuple[str, str]]:
    path = root / "config" / "models.yaml"
    path.write_text(catalog, encoding="utf-8")
    problems = check(load_settings(root, environ=environ), load_catalog(path))
    return [(problem.level, str(problem)) for problem in problems]


def test_nothing_is_wrong_with_the_files_of_the_product() -> None:
    settings = load_settings(ROOT, environ={})
    assert check(settings, load_catalog(settings.catalog)) == []


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("gpu-box", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_open_to_other_machines_without_a_key(root: Path) -> None:
    ((level, text),) = said(root, LLM_SERVER__HOST="0.0.0.0")
    assert level == "error"
    assert text == (
        "environment: LLM_SERVER__HOST: '0.0.0.0' lets other machines in, and no key has the "
        "scope 'infer'; add one under 'keys' in config/gateway.yaml, or take 127.0.0.1"
    )


def test_such_a_gateway_is_refused(root: Path) -> None:
    path = root / "config" / "models.yaml"
    path.write_text(CATALOG, encoding="utf-8")
    settings = load_settings(root, {"server.host": "0.0.0.0"}, {})
    with pytest.raises(ConfigError, match=r"^flag: server\.host: '0\.0\.0\.0' lets other"):
        refuse(check(settings, load_catalog(path)))


@pytest.mark.parametrize(
    ("environ", "problems"),
    [
        ({"LLM_SERVER__PUBLISHED_HOST": "127.0.0.1"}, 0),
        ({"LLM_SERVER__PUBLISHED_HOST": "10.0.0.1"}, 1),
        ({"LLM_KEYS": f"[{{name: x, sha256: {DIGEST}}}]"}, 0),
        ({"LLM_KEYS": f"[{{name: x, sha256: {DIGEST}, scopes: [admin]}}]"}, 1),
    ],
)
def test_what_counts_is_the_published_address_and_a_key(
    root: Path, environ: dict[str, str], problems: int
) -> None:
    assert len(said(root, LLM_SERVER__HOST="0.0.0.0", **environ)) == problems


def test_preload_may_name_an_alias(root: Path) -> None:
    assert said(root, LLM_SWITCHING__PRELOAD="first") == []


def test_preload_of_a_model_that_is_not_there(root: Path) -> None:
    (root / "config" / "gateway.yaml").write_text("switching:\n  preload: firzt\n", "utf-8")
    assert said(root) == [
        (
            "error",
            (
                "config/gateway.yaml:2: switching.preload: no model is called 'firzt'; "
                "did you mean 'first'?"
            ),
        )
    ]


def test_drain_that_is_longer_than_any_request(root: Path) -> None:
    assert said(root, LLM_SWITCHING__DRAIN_TIMEOUT_S="400") == [
        (
            "warning",
            (
                "environment: LLM_SWITCHING__DRAIN_TIMEOUT_S: 400 s is more than "
                "limits.request_timeout_s allows any request (300 s); the rest is never waited"
            ),
        )
    ]


@pytest.mark.parametrize(
    ("old", "new", "level", "text"),
    [
        pytest.param(
            "[process]",
            "[process, docker]",
            "error",
            "6: models.a.runtimes[1]: 'docker' cannot run the engine 'llama.cpp'; only 'process' can",
            id="llama.cpp in a container",
        ),
        pytest.param(
            "engine: {kind: llama.cpp}",
            "engine: {kind: external, base_url: 'http://host'}",
            "error",
            "6: models.a.runtimes[0]: 'process' cannot run the engine 'external'; only 'external' can",
            id="somebody else's server as a process",
        ),
        pytest.param(
            "engine: {kind: llama.cpp}",
            "engine: {kind: vllm}",
            "error",
            "7: models.a.engine: 'container' is missing: "
            "runtime 'docker' needs a name such as 'llm-a'",
            id="container without a name",
        ),
        pytest.param(
            "    weights: {source: path, path: /w.gguf}\n",
            "",
            "error",
            "4: models.a: 'weights' is missing: llama.cpp runs a GGUF file",
            id="llama.cpp without weights",
        ),
        pytest.param(
            "{source: path, path: /w.gguf}",
            "{source: hub, repo: a/b}",
            "error",
            "8: models.a.weights: 'file' is missing: llama.cpp runs one GGUF file, "
            "not a repository",
            id="llama.cpp with a repository",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    memory_mib: {awake: 1001}",
            "warning",
            "11: models.a.memory_mib.awake: 1001 MiB are more than the 1000 MiB of 'gpu0'",
            id="more memory than the device has",
        ),
    ],
)
def test_models(root: Path, old: str, new: str, level: str, text: str) -> None:
    catalog = CATALOG.replace(old, new)
    if "kind: vllm" in new:
        catalog = catalog.replace("[process]", "[docker]")
    assert said(root, catalog) == [(level, f"config/models.yaml:{text}")]


def test_two_models_of_one_container(root: Path) -> None:
    entry = (
        "  {}:\n    runtimes: [docker]\n    engine: {{kind: vllm, container: llm}}\n"
        "    capabilities: [chat]\n    devices: [gpu0]\n"
    )
    catalog = CATALOG + entry.format("b") + entry.format("c")
    assert said(root, catalog) == [
        (
            "error",
            "config/models.yaml:18: models.c.engine.container: 'llm' is the container of 'b' too",
        )
    ]


def test_only_what_has_a_sleep_mode_may_sleep(root: Path) -> None:
    (line,) = said(root, CATALOG + "    residency: auto\n")

    assert line == (
        "error",
        (
            "config/models.yaml:11: models.a.residency: 'auto' is for engines with vLLM's sleep mode, "
            "and this one is llama.cpp; take 'stop'"
        ),
    )


SLEEPERS = """\
devices:
  gpu0: {kind: cuda, memory_mib: 10000, headroom_mib: 0, ceiling: 1}
models:
  a: &a
    runtimes: [process]
    engine: {kind: vllm, python: /usr/bin/python3}
    weights: {source: path, path: /w}
    capabilities: [chat]
    devices: [gpu0]
    memory_mib: {awake: 9000, asleep-1: 600}
    residency: asleep-1
  b:
    <<: *a
"""


def test_sleepers_that_fit_beside_the_awake_model_are_fine(root: Path) -> None:
    assert said(root, SLEEPERS) == []


def test_sleepers_without_room_are_told_that_they_will_be_stopped(root: Path) -> None:
    lines = said(root, SLEEPERS.replace("awake: 9000", "awake: 9500"))

    assert [level for level, _ in lines] == ["warning", "warning"]
    assert "asleep it keeps 600 MiB of 'gpu0'" in lines[0][1]
    assert "reserves 9500 of 10000 MiB: it will be stopped instead" in lines[0][1]


def test_a_model_of_this_machine_names_its_device(root: Path) -> None:
    (line,) = said(root, CATALOG.replace("    devices: [gpu0]\n", ""))

    assert line == (
        "error",
        (
            "config/models.yaml:4: models.a: 'devices' is missing: name what the model runs on; "
            "there is gpu0"
        ),
    )


ELSEWHERE = """\
models:
  far:
    runtimes: [external]
    engine: {kind: external, base_url: 'http://host:8000'}
    capabilities: [chat]
"""


def test_a_server_elsewhere_needs_no_device(root: Path) -> None:
    assert said(root, ELSEWHERE) == []


def test_a_server_elsewhere_takes_none(root: Path) -> None:
    (line,) = said(root, "devices: {gpu0: {}}\n" + ELSEWHERE + "    devices: [gpu0]\n")

    assert line == (
        "error",
        (
            "config/models.yaml:7: models.far.devices: a server elsewhere takes no device of this "
            "machine; leave it out"
        ),
    )


COMPANY = """\
devices: {npu: {kind: cpu}}
models:
  npu:
    runtimes: [process]
    engine:
      kind: command
      argv: [serve, "{port}", "{tokenizer.port}"]
      helpers:
        - {name: tokenizer, argv: [tok, "{port}"]}
        - {name: bus, argv: [bus]}
      health:
        chip: {path: /chip, helper: bus}
    capabilities: [chat]
    devices: [npu]
"""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        pytest.param("chip", "chip", None, id="nothing is wrong"),
        pytest.param(
            "name: bus",
            "name: tokenizer",
            "10: models.npu.engine.helpers[1].name: 'tokenizer' is the name of another helper too",
            id="twice",
        ),
        pytest.param(
            "name: tokenizer",
            "name: model",
            "9: models.npu.engine.helpers[0].name: 'model' is the name of the engine itself too",
            id="the engine's",
        ),
        pytest.param(
            "helper: bus",
            "helper: busx",
            "12: models.npu.engine.health.chip.helper: no helper is called 'busx'; "
            "did you mean 'bus'?",
            id="asked of nobody",
        ),
        pytest.param(
            "{tokenizer.port}",
            "{tokeniser.port}",
            "7: models.npu.engine.argv: '{tokeniser.port}': no helper is called 'tokeniser'; "
            "did you mean 'tokenizer'?",
            id="port of nobody",
        ),
        pytest.param(
            "chip:",
            "bus:",
            "12: models.npu.engine.health.bus: 'bus' is the name of another helper too",
            id="shown twice",
        ),
    ],
)
def test_helpers(root: Path, old: str, new: str, text: str | None) -> None:
    lines = [line for _, line in said(root, COMPANY.replace(old, new))]

    assert (f"config/models.yaml:{text}" in lines) if text else (lines == [])


@pytest.mark.parametrize(
    ("engine", "bus", "text"),
    [
        (0, 7, None),
        (9, 7, None),
        (
            9,
            8,
            "10: models.npu.engine.helpers[1].port: 8 is the port of the helper 'tokenizer' too",
        ),
        (9, 9, "10: models.npu.engine.helpers[1].port: 9 is the port of the engine itself too"),
    ],
)
def test_ports_of_one_engine_are_different(
    root: Path, engine: int, bus: int, text: str | None
) -> None:
    catalog = COMPANY.replace("name: tokenizer,", "name: tokenizer, port: 8,")
    catalog = catalog.replace("name: bus,", f"name: bus, port: {bus},") + f"    port: {engine}\n"
    lines = [line for _, line in said(root, catalog)]

    assert lines == ([f"config/models.yaml:{text}"] if text else [])
