"""Settings in variables and in `.env`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_backend.config import Settings, explain, load_settings
from llm_backend.errors import ConfigError

ROOT = Path(__file__).parents[3]
DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(root: Path, dotenv: str = "", **environ: str) -> list[str]:
    (root / ".env").write_text(dotenv, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(root, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("LLM_SERVER__PORT", "7001", "server.port", 7001),
        ("LLM_SERVER__HOST", "10.0.0.1", "server.host", "10.0.0.1"),
        ("LLM_SERVER__HOST", "7", "server.host", "7"),
        ("LLM_SERVER__ALLOWED_HOSTS", "a, b.lan", "server.allowed_hosts", ["a", "b.lan"]),
        ("LLM_SERVER__ALLOWED_HOSTS", '["a", "b"]', "server.allowed_hosts", ["a", "b"]),
        ("LLM_SERVER__ALLOWED_HOSTS", "[a, b]", "server.allowed_hosts", ["a", "b"]),
        ("LLM_SERVER__ALLOWED_HOSTS", "[]", "server.allowed_hosts", []),
        ("LLM_SERVER__PUBLISHED_HOST", "null", "server.published_host", None),
        ("LLM_LIMITS__REQUEST_TIMEOUT_S", "0.5", "limits.request_timeout_s", 0.5),
        ("LLM_SWITCHING__DRAIN_TIMEOUT_S", "5", "switching.drain_timeout_s", 5),
        ("LLM_SWITCHING__RESTORE_PREVIOUS", "true", "switching.restore_previous", True),
        ("LLM_CACHE__MODE", "off", "cache.mode", "off"),
        ("LLM_SETUP", "local", "setup", "local"),
        (
            "LLM_KEYS",
            f"[{{name: me, sha256: {DIGEST}, scopes: [admin], concurrency: 4}}]",
            "keys",
            [{"name": "me", "scopes": ["admin"], "requests_per_minute": None, "concurrency": 4}],
        ),
    ],
)
def test_a_text_becomes_what_the_setting_is(
    root: Path, name: str, text: str, key: str, value: object
) -> None:
    settings = load_settings(root, environ={name: text})
    (one,) = [each for each in explain(settings) if each.key == key]
    assert (one.value, one.origin.kind) == (value, "environment")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("LLM_SERVER__PORT", "x", "'x' is not a whole number from 0 to 65535"),
        ("LLM_SERVER__PORT", "70.5", "70.5 is not a whole number from 0 to 65535"),
        ("LLM_SERVER__PORT", "[1", "'[1' is not a whole number from 0 to 65535"),
        ("LLM_SERVER__PORT", "!mine 1", "null is not a whole number from 0 to 65535"),
        ("LLM_SWITCHING__RESTORE_PREVIOUS", "yes", "'yes' is not true or false"),
        ("LLM_SETUP", "null", "'null' is not one of 'auto', 'local', 'compose', 'external'"),
        ("LLM_SERVER_PORT", "1", "there is no such setting; did you mean 'LLM_SERVER__PORT'?"),
        (
            "LLM_XYZZY_42",
            "1",
            "there is no such setting; docs/reference/configuration.md lists them all",
        ),
    ],
)
def test_a_wrong_variable(root: Path, name: str, text: str, says: str) -> None:
    assert refusal(root, **{name: text}) == [f"environment: {name}: {says}"]


def test_an_entry_of_a_list_is_named(root: Path) -> None:
    assert refusal(root, LLM_SERVER__CORS_ORIGINS="http://a,b") == [
        (
            "environment: LLM_SERVER__CORS_ORIGINS[1]: 'b' is not "
            "an origin such as http://localhost:3000 (no path, no final /)"
        )
    ]


def test_an_empty_variable_counts_as_not_set(root: Path) -> None:
    assert load_settings(root, environ={"LLM_SERVER__PORT": ""}).server.port == 7000


@pytest.mark.parametrize(
    "name",
    [
        "LLM_MODEL_ID",
        "LLM_DEVICE",
        "LLM_QUANTIZATION",
        "LLM_SERVICE_PORT",
        "LLM_BACKEND_URL",
        "LLM_TEST_SLOW",
        "LLMS",
        "PATH",
    ],
)
def test_other_names_are_left_alone(root: Path, name: str) -> None:
    (root / ".env").write_text(f"{name}=1\n", encoding="utf-8")
    assert load_settings(root, environ={name: "x"}).server.port == 7000


def test_dotenv(root: Path) -> None:
    (root / ".env").write_text(
        "# comment\n\n"
        "REDIS_IMAGE=redis:8\n"
        "export LLM_SERVER__PORT=7005 # where to listen\n"
        "LLM_SERVER__HOST='127.0.0.2'\n"
        'LLM_CACHE__REDIS_URL="redis://cache:6379/0"\n'
        "LLM_STATE_DIR=${HOME}/state\n"
        "LLM_MODELS_DIR=${NOWHERE:-/srv}/models\n"
        "LLM_CATALOG=${LLM_STATE_DIR}/models.yaml\n",
        encoding="utf-8",
    )
    settings = load_settings(root, environ={"HOME": "/home/me"})
    assert settings.server.port == 7005
    assert settings.server.host == "127.0.0.2"
    assert settings.cache.redis_url == "redis://cache:6379/0"
    assert settings.state_dir == Path("/home/me/state")
    assert settings.models_dir == Path("/srv/models")
    assert settings.catalog == Path("/home/me/state/models.yaml")
    assert settings.origin("server", "host").where == ".env:5"


def test_wrong_lines_of_dotenv(root: Path) -> None:
    dotenv = "\n\nLLM_SETUP=local\nLLM_SETUP=auto\n\n'broken\nLLM_CATALOG\nLLM_SERVER__PORT=x\n"
    assert refusal(root, dotenv) == [
        ".env:4: LLM_SETUP: given twice; line 3 has it too",
        ".env:6: this line is not NAME=value",
        ".env:7: LLM_CATALOG: has no value; write NAME=value",
        ".env:8: LLM_SERVER__PORT: 'x' is not a whole number from 0 to 65535",
    ]


EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def test_the_example_has_every_setting_at_its_default(root: Path) -> None:
    (root / ".env").write_text(
        re.sub(r"^#(?=LLM_)", "", EXAMPLE, flags=re.MULTILINE), encoding="utf-8"
    )
    example = explain(load_settings(root, environ={}))
    assert {one.origin.kind for one in example} == {".env"}
    (root / ".env").unlink()
    defaults = explain(load_settings(root, environ={}))
    assert [(one.key, one.value) for one in example] == [(one.key, one.value) for one in defaults]


def test_the_example_sets_nothing_as_it_stands(root: Path) -> None:
    (root / ".env").write_text(EXAMPLE, encoding="utf-8")
    assert {one.origin.kind for one in explain(load_settings(root, environ={}))} == {"default"}
    assert len(explain(Settings())) == EXAMPLE.count("\n#LLM_")
