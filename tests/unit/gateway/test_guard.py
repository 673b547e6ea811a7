"""The first look at a request, on its raw headers; what clients see of it is in tests/integration."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.errors import (
    Forbidden,
    ForeignHost,
    HeadersTooLarge,
    InvalidRequest,
    LLMBackendError,
    WrongMediaType,
)
from llm_backend.gateway.guard import Guard, RequestIds, cors_headers, preflight_headers

PAGE = b"http://localhost:3000"
HOST = (b"host", b"localhost:7000")
JSON = (b"content-type", b"application/json")
GUARD = Guard(
    hosts=["Box.LAN", "[fd00::5]", "fd00::6"],
    origins=[PAGE.decode()],
    max_headers=10,
    max_header_bytes=200,
)
IDS = RequestIds()
Header = tuple[bytes, bytes]


def fields(headers: Sequence[Header]) -> dict[bytes, bytes]:
    """Return the first header of each name."""
    return dict(reversed(headers))


def check(*headers: Header, method: str = "GET", guard: Guard = GUARD) -> bytes | None:
    return guard.check(method, list(headers), fields(headers))


def refusal(*headers: Header, method: str = "GET") -> type[LLMBackendError] | None:
    try:
        check(*headers, method=method)
    except LLMBackendError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    "host",
    [b"box.lan", b"BOX.lan:80", b"[fd00::5]", b"[fd00::6]:7000", b"[::1]:1", b"127.0.0.1"],
)
def test_hosts_that_are_ours(host: bytes) -> None:
    assert refusal((b"host", host)) is None


@given(st.binary(max_size=40))
def test_no_other_host_passes(host: bytes) -> None:
    name = host.decode("latin-1").lower()
    bare = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name
    ours = {"localhost", "127.0.0.1", "::1", "box.lan", "fd00::5", "fd00::6"}
    expected = None if bare.strip("[]") in ours or name.strip("[]") in ours else ForeignHost
    assert refusal((b"host", host)) is expected


def test_a_request_has_one_host() -> None:
    assert refusal() is InvalidRequest
    assert refusal(HOST, HOST) is InvalidRequest


@pytest.mark.parametrize(
    "name", [b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"origin"]
)
def test_headers_that_decide_come_once(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"two {name.decode().title()} headers"):
        check(HOST, (name, b"1"), (name, b"1"))
    assert refusal(HOST, (b"accept", b"1"), (b"accept", b"2")) is None


def test_headers_are_counted_and_measured() -> None:
    assert refusal(HOST, *[(b"a", b"1")] * 9) is None
    assert refusal(HOST, *[(b"a", b"1")] * 10) is HeadersTooLarge
    room = 200 - sum(map(len, HOST)) - 1
    assert refusal(HOST, (b"a", b"x" * room)) is None
    assert refusal(HOST, (b"a", b"x" * (room + 1))) is HeadersTooLarge


def test_only_good_hosts_are_remembered_and_not_many() -> None:
    guard = Guard(hosts=["box"], origins=[], max_headers=10, max_header_bytes=200)
    for port in range(1000):
        check((b"host", b"box:%d" % port), guard=guard)
        with pytest.raises(ForeignHost):
            check((b"host", b"fox:%d" % port), guard=guard)
    assert 0 < len(guard._good_hosts) < 100
    assert all(host.startswith(b"box:") for host in guard._good_hosts)


@pytest.mark.parametrize(
    ("origin", "page"),
    [(PAGE, PAGE), (b"http://localhost:7000", None), (b"https://localhost:7000", None)],
)
def test_pages_that_may_ask(origin: bytes, page: bytes | None) -> None:
    assert check(HOST, (b"origin", origin)) == page
    assert check(HOST) is None


@pytest.mark.parametrize(
    "origin", [b"null", b"", b"http://localhost:3001", b"http://localhost", b"localhost:7000x"]
)
def test_pages_that_may_not(origin: bytes) -> None:
    assert refusal(HOST, (b"origin", origin)) is Forbidden


@pytest.mark.parametrize(
    ("media_type", "refused"),
    [
        (b"application/json", None),
        (b"Application/JSON ; charset=utf-8", None),
        (b"text/plain", WrongMediaType),
        (b"application/json-patch", WrongMediaType),
        (b"", WrongMediaType),
    ],
)
def test_bodies_are_json(media_type: bytes, refused: type[LLMBackendError] | None) -> None:
    for method in ("POST", "PUT", "PATCH"):
        assert refusal(HOST, (b"content-type", media_type), method=method) is refused
    assert refusal(HOST, (b"content-type", media_type)) is None


def test_bodies_are_not_encoded() -> None:
    assert refusal(HOST, JSON, (b"content-encoding", b"Identity"), method="POST") is None
    assert refusal(HOST, JSON, (b"content-encoding", b"gzip"), method="POST") is WrongMediaType


def test_what_a_browser_is_told() -> None:
    told = dict(cors_headers(PAGE) + preflight_headers(b"authorization"))
    assert told[b"access-control-allow-origin"] == PAGE
    assert told[b"access-control-allow-headers"] == b"authorization"
    assert told[b"access-control-allow-methods"] == b"GET, POST, DELETE"


@given(st.binary(max_size=80))
def test_a_request_id_is_never_more_than_a_name(sent: bytes) -> None:
    ident = IDS.of({b"x-request-id": sent})
    assert 0 < len(ident) <= 64
    assert ident.replace("_", "").replace("-", "").isalnum() or set(ident) <= {"_", "-"}
    assert ident.isascii()


def test_a_request_keeps_its_id_or_gets_its_own() -> None:
    assert IDS.of({b"x-request-id": b"a-1_B"}) == "a-1_B"
    made = [ids.of({}) for ids in (IDS, IDS, RequestIds(), RequestIds())]
    assert len(set(made)) == 4
    assert all(re.fullmatch("[0-9a-f]{24}", ident) for ident in made)
