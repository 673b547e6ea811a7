"""Every route with every key, and every way of naming another host."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llm_backend.gateway.endpoints import ENDPOINTS, GENERATE_PATH
from tests.harness import GatewayHome
from tests.integration.gateways import (
    at_rest,
    client_of,
    connected,
    key_of,
    key_setting,
    log_of,
    recorder,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("keys and scopes")]

OPEN = {"/", "/openapi.json", "/docs", "/metrics", "/metrics/engines"}
OPEN |= {"/health", "/health/live", "/health/ready"}
EXTRA = [
    ("GET", "/models"),
    ("GET", "/models/echo"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    *(("POST", path) for path in ENDPOINTS),
]
LEASE = "/api/v1/device/lease"
ADMIN = {"/api/v1/inference/load", "/api/v1/inference/unload", "/api/v1/cache/clear", "/logs/echo"}
ADMIN |= {LEASE, LEASE + "/{ident}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    keys = [key_setting("alice", "infer"), key_setting("bob", "infer"), key_setting("ops", "admin")]
    with shared_gateway(tmp_path_factory, {"echo": recorder()}, keys=keys) as home:
        assert home.load("echo").status_code == 200
        yield home
        at_rest(home)


@pytest.fixture(scope="module")
def routes(home: GatewayHome) -> list[tuple[str, str]]:
    """Every route that the gateway itself tells of, and those that it keeps to itself."""
    paths: dict[str, Any] = home.get("/openapi.json").json()["paths"]
    told = [
        (method.upper(), re.sub(r"\{model[^}]*\}", "echo", path))
        for path, methods in paths.items()
        for method in methods
    ]
    assert len(told) >= 12
    return [*told, *EXTRA]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def api_key(key: str) -> dict[str, str]:
    return {"x-api-key": key}


ALICE, BOB, OPS = map(key_of, ("alice", "bob", "ops"))
WRONG_KEYS = ["wrong", ALICE[:-1], ALICE + "x", ALICE.upper(), "Bearer " + ALICE, "*", "null"]
WRONG = [
    {},
    *(style(key) for style in (bearer, api_key) for key in WRONG_KEYS),
    {"authorization": ALICE},
    {"authorization": f"Basic {ALICE}"},
    {"authorization": "Bearer"},
    {"cookie": f"key={OPS}"},
    {"proxy-authorization": f"Bearer {OPS}"},
    {"api-key": OPS},
]
TWO = [
    {**style(first), **other(second)}
    for style, other in ((bearer, api_key), (api_key, bearer))
    for first, second in itertools.permutations((ALICE, BOB, OPS, "wrong"), 2)
]


def status_of(http: httpx2.Client, method: str, path: str, headers: dict[str, str]) -> int:
    """Ask, for nothing that does anything."""
    body = {"model": "nobody"} if method == "POST" else None
    if path == GENERATE_PATH:
        body = {"model": "nobody", "prompt": "Say hi"}
    with http.stream(method, path, json=body, headers=headers) as response:
        return response.status_code


@pytest.mark.parametrize("style", [bearer, api_key], ids=["bearer", "x-api-key"])
def test_every_route_with_every_key(
    home: GatewayHome, routes: list[tuple[str, str]], style: Any
) -> None:
    wrong: list[Any] = []
    with client_of(home) as http:
        for (method, path), key in itertools.product(routes, (ALICE, OPS)):
            status = status_of(http, method, path, style(key))
            refused = path in ADMIN and key == ALICE
            harmless = 400 if path == LEASE else None  # a lease that works would take the device
            if (status == 403) != refused or status in {400, 401} - {harmless} or status >= 500:
                wrong.append((method, path, key, status))
    assert wrong == []


def test_no_route_without_a_key_but_those_that_are_open(
    home: GatewayHome, routes: list[tuple[str, str]]
) -> None:
    wrong = []
    with client_of(home) as http:
        for (method, path), headers in itertools.product(routes, WRONG):
            status = status_of(http, method, path, headers)
            if status != (200 if path in OPEN else 401):
                wrong.append((method, path, headers, status))
    assert wrong == []


def test_two_different_keys_open_nothing(home: GatewayHome, routes: list[tuple[str, str]]) -> None:
    wrong = []
    with client_of(home) as http:
        for (method, path), headers in itertools.product(routes, TWO):
            status = status_of(http, method, path, headers)
            if status != (200 if path in OPEN else 400):
                wrong.append((method, path, headers, status))
    assert wrong == []


def test_ten_thousand_keys_open_nothing(home: GatewayHome) -> None:
    with client_of(home) as http:
        for number in range(0, 10_000, 100):
            statuses = {
                status_of(http, "GET", "/status", style(f"{ALICE[: n % 12]}{n}"))
                for n in range(number, number + 10)
                for style in (bearer, api_key)
            }
            assert statuses == {401}
    log = log_of(home)
    assert ALICE not in log
    assert OPS not in log


HOSTS = [
    "attacker.example",
    "attacker.example:7000",
    "localhost.attacker.example",
    "localhost@attacker.example",
    "attacker.example@localhost",
    "localhost:7000@attacker.example",
    "attacker.example#localhost",
    "attacker.example?localhost",
    "attacker.example/localhost",
    "attacker.example\\localhost",
    "localhost/openapi.json?",
    "localhost/docs?",
    "localhost/health#",
    "x/openapi.json?",
    "localhost:7000/health",
    "localhost:health",
    "localhost:-1",
    "localhost:7000:7000",
    "localhost.",
    "localhost,attacker.example",
    "localhost attacker.example",
    "localhost;attacker.example",
    "127.0.0.1.nip.example",
    "127.0.0.1@attacker.example",
    "127.1",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::1]attacker.example",
    "[::1]:7000@attacker.example",
    "[attacker.example]",
    "169.254.169.254",
    "*",
    "%6cocalhost",
    "l\xf6calhost",
    "http://localhost",
    "",
    " ",
    "a" * 5000,
]


def test_no_host_but_ours_is_answered_for(home: GatewayHome, routes: list[tuple[str, str]]) -> None:
    """Not even a route that is open, nor with the admin key: the name alone decides."""
    assert len(HOSTS) >= 40
    wrong = []
    for number, host in enumerate(HOSTS):
        keys = ["", f"x-api-key: {OPS}\r\n"][number % 2]
        for method, path in routes:
            body = b'{"model": "nobody"}' if method == "POST" else b""
            status = bare_status(home, method, path, f"host: {host}\r\n{keys}", body)
            if status not in {400, 421}:
                wrong.append((method, path, host, status))
    assert wrong == []


def bare_status(home: GatewayHome, method: str, path: str, fields: str, body: bytes) -> int:
    head = (
        f"{method} {path} HTTP/1.1\r\n{fields}connection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with connected(home) as connection:
        connection.settimeout(10)
        connection.sendall(head.encode("latin-1") + body)
        return int(connection.recv(64).split(b" ")[1])
