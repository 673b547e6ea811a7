"""Where the gateway is and which key opens it."""

from __future__ import annotations

import pytest

from llm_backend import ConfigError
from llm_backend.client.address import is_loopback, resolve_key, resolve_root


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://localhost:7000", "http://localhost:7000"),
        ("http://localhost:7000/", "http://localhost:7000"),
        ("http://localhost:7000/v1", "http://localhost:7000"),
        ("http://localhost:7000/v1/", "http://localhost:7000"),
        ("https://gpu.example/llm/v1", "https://gpu.example/llm"),
        (" http://[::1]:7000\n", "http://[::1]:7000"),
    ],
)
def test_an_address_works_with_and_without_v1(given: str, root: str) -> None:
    assert resolve_root(given) == root


def test_the_argument_beats_the_environment_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_root(None) == "http://localhost:7000"
    assert resolve_key(None) is None
    monkeypatch.setenv("LLM_BASE_URL", "http://gpu:7000/v1")
    monkeypatch.setenv("LLM_API_KEY", "from-env")
    assert resolve_root(None) == "http://gpu:7000"
    assert resolve_key(None) == "from-env"
    assert resolve_root("http://other:7000") == "http://other:7000"
    assert resolve_key("given") == "given"
    assert resolve_key("") is None


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "")
    monkeypatch.setenv("LLM_API_KEY", "")
    assert resolve_root(None) == "http://localhost:7000"
    assert resolve_key(None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("localhost:7000", "base_url must start with http:// or https://, not 'localhost:7000'"),
        ("", "base_url must start with http"),
        ("ftp://gpu", "base_url must start with http"),
        ("http://gpu:port", "base_url is not an address: 'http://gpu:port'"),
        ("http://user:pw@gpu:7000", "The key goes into api_key"),
        ("http://gpu:7000?key=1", "without user, query or fragment"),
    ],
)
def test_what_is_no_address_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_root(given)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "gpu")
    with pytest.raises(ConfigError, match="LLM_BASE_URL must start with"):
        resolve_root(None)


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key must be printable ASCII") as caught:
        resolve_key(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("gpu", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
