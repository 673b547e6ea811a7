"""What `config check` prints, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.config import Explained, explain, load_settings

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explained(root: Path, **environ: str) -> dict[str, Explained]:
    return {one.key: one for one in explain(load_settings(root, environ=environ))}


def test_a_setting_is_explained(root: Path) -> None:
    one = explained(root, LLM_LIMITS__REQUEST_TIMEOUT_S="60")["limits.request_timeout_s"]
    assert (one.value, one.default, one.unit) == (60, 300, "s")
    assert one.variable == "LLM_LIMITS__REQUEST_TIMEOUT_S"
    assert one.allowed == "a number above 0, at most 86400"
    assert one.meaning.startswith("Longest time from the first byte")
    assert one.origin.where == "environment"


def test_every_setting_has_a_meaning(root: Path) -> None:
    assert [one.key for one in explained(root).values() if not one.meaning] == []


def test_units_are_read_off_the_names(root: Path) -> None:
    units = {key: one.unit for key, one in explained(root).items() if one.unit}
    assert units["cache.memory_mib"] == "MiB"
    assert units["limits.headers_kib"] == "KiB"
    assert units["limits.prompt_chars"] == "characters"
    assert "limits.headers" not in units


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host:6379/0", "redis://me:***@host:6379/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_passwords_are_left_out(root: Path, url: str, shown: str) -> None:
    assert explained(root, LLM_CACHE__REDIS_URL=url)["cache.redis_url"].value == shown


def test_digests_of_keys_are_left_out(root: Path) -> None:
    keys = explained(root, LLM_KEYS=f"[{{name: me, sha256: {DIGEST}}}]")["keys"].value
    limits = {"requests_per_minute": None, "concurrency": None}
    assert keys == [{"name": "me", "scopes": ["infer"], **limits}]
