"""Who asks, and may they? Every scope, every way to send a key."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.config.settings import Settings
from llm_backend.errors import ConfigError, Forbidden, InvalidKey, InvalidRequest
from llm_backend.gateway.auth import (
    ANONYMOUS,
    Authenticator,
    Key,
    admin_key,
    authenticator_of,
    presented_key,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


KEYS = [
    Key("alice", digest("a-key"), frozenset({"infer"})),
    Key("ops", digest("o-key"), frozenset({"admin"})),
]
CLOSED = Authenticator(KEYS, open_infer=False)
OPEN = Authenticator(KEYS[1:], open_infer=True)


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(
    "headers",
    [
        bearer("k"),
        {b"authorization": b"bearer   k "},
        {b"x-api-key": b" k "},
        {**bearer("k"), b"x-api-key": b"k"},
        {b"authorization": b"Basic dXNlcg==", b"x-api-key": b"k"},
    ],
)
def test_both_headers_hold_the_key(headers: dict[bytes, bytes]) -> None:
    assert presented_key(headers) == b"k"


@pytest.mark.parametrize(
    "headers",
    [{}, {b"authorization": b"Bearer "}, {b"authorization": b"k"}, {b"x-api-key": b""}],
)
def test_what_is_no_key(headers: dict[bytes, bytes]) -> None:
    assert presented_key(headers) is None


def test_two_keys_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest, match="two different keys"):
        presented_key({**bearer("a-key"), b"x-api-key": b"o-key"})


def test_scopes() -> None:
    assert CLOSED.authorise(bearer("a-key"), "infer") == "alice"
    assert CLOSED.authorise(bearer("o-key"), "infer") == "ops"
    assert CLOSED.authorise(bearer("o-key"), "admin") == "ops"
    with pytest.raises(Forbidden, match="'alice' does not have the scope 'admin'"):
        CLOSED.authorise(bearer("a-key"), "admin")


def test_without_a_key_or_with_a_wrong_one() -> None:
    for scope in ("infer", "admin"):
        with pytest.raises(InvalidKey, match="Authorization: Bearer <key>"):
            CLOSED.authorise({}, scope)  # type: ignore[arg-type]  # one of the scopes
        with pytest.raises(InvalidKey, match="not known"):
            CLOSED.authorise(bearer("wrong"), scope)  # type: ignore[arg-type]  # the same


def test_where_asking_is_open_any_key_will_do_but_not_for_orders() -> None:
    assert OPEN.authorise({}, "infer") == ANONYMOUS
    assert OPEN.authorise(bearer("any"), "infer") == ANONYMOUS
    assert OPEN.authorise(bearer("o-key"), "infer") == "ops"
    for headers in ({}, bearer("any")):
        with pytest.raises(InvalidKey):
            OPEN.authorise(headers, "admin")


def test_a_request_comes_under_one_of_these_names() -> None:
    assert OPEN.authorise(bearer("o-key"), "infer") in OPEN.names
    assert OPEN.authorise({}, "infer") in OPEN.names
    assert ANONYMOUS not in CLOSED.names


@given(st.binary())
def test_no_other_key_opens_anything(key: bytes) -> None:
    headers = {b"authorization": b"Bearer " + key}
    if key.strip() in {b"a-key", b"o-key"}:
        return
    with pytest.raises(InvalidKey):
        CLOSED.authorise(headers, "infer")


def settings(state_dir: Path, **fields: Any) -> Settings:
    return Settings(state_dir=state_dir, **fields)


def test_the_admin_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    key = admin_key(tmp_path / "state")

    assert len(key) >= 32
    assert admin_key(tmp_path / "state") == key
    mode = stat.S_IMODE((tmp_path / "state/admin.key").stat().st_mode)
    assert mode == 0o600
    assert authenticator_of(settings(tmp_path / "state")).authorise(bearer(key), "admin") == "admin"
    assert admin_key(tmp_path / "other") != key


def test_a_key_that_was_never_written_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "admin.key").touch()
    assert len(admin_key(tmp_path)) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["admin.key"]


def test_a_umask_does_not_open_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        admin_key(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600


INFER = {"name": "alice", "sha256": digest("a-key"), "scopes": ("infer",)}
ADMIN = {"name": "ops", "sha256": digest("o-key"), "scopes": ("admin",)}


@pytest.mark.parametrize("where", [{"host": "0.0.0.0"}, {"published_host": "192.168.1.5"}])
def test_beyond_loopback_a_key_is_demanded(tmp_path: Path, where: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="by anyone, without a key"):
        authenticator_of(settings(tmp_path, server=where))
    for keys in ((INFER,), (ADMIN,)):
        closed = authenticator_of(settings(tmp_path, server=where, keys=keys))
        with pytest.raises(InvalidKey):
            closed.authorise({}, "infer")


def test_what_counts_is_where_it_is_published(tmp_path: Path) -> None:
    where = {"host": "0.0.0.0", "published_host": "127.0.0.1"}
    published = authenticator_of(settings(tmp_path, server=where))
    assert published.authorise({}, "infer") == ANONYMOUS
