"""Who may ask what, and what never gets past the guard."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator

import httpx2
import pytest

from llm_backend.gateway.endpoints import ENDPOINTS, GENERATE_PATH
from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    anthropic_error_of,
    at_rest,
    client_of,
    connected,
    error_of,
    key_of,
    key_setting,
    log_of,
    post_bytes,
    raw,
    recorded,
    recorder,
    shared_gateway,
)

pytestmark = pytest.mark.engine

PAGE = "http://localhost:3000"
LIMITS = {"body_mib": 5, "headers": 20, "headers_kib": 4, "slow_client_s": 1}
OPEN = ["/", "/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"]
INFER = ["/v1/models", "/models", "/v1/models/echo", "/models/echo", "/status"]
ADMIN = ["/api/v1/inference/load", "/api/v1/inference/unload", "/api/v1/cache/clear"]
JSON = "content-type: application/json"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    keys = [
        key_setting("alice", "infer"),
        key_setting("bob", "infer"),
        key_setting("ops", "admin"),
    ]
    with shared_gateway(
        tmp_path_factory,
        {"echo": recorder()},
        keys=keys,
        limits=LIMITS,
        server={"port": 0, "allowed_hosts": ["box.lan", "fd00::5"], "cors_origins": [PAGE]},
    ) as home:
        assert home.load("echo").status_code == 200
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home) as http:
        yield http
    at_rest(home)


ALICE = {"authorization": f"Bearer {key_of('alice')}"}
STYLES = {
    "bearer": lambda key: {"authorization": f"Bearer {key}"},
    "x-api-key": lambda key: {"x-api-key": key},
    "both": lambda key: {"authorization": f"bearer {key}", "x-api-key": key},
}
HELD = [*itertools.product(("alice", "ops", "mallory"), STYLES), ("nobody", "none")]


def headers_of(who: str, style: str) -> dict[str, str]:
    return {} if style == "none" else STYLES[style](key_of(who))


def expected(who: str, scope: str) -> int:
    if scope == "open":
        return 200
    if who in {"nobody", "mallory"}:
        return 401
    return 403 if (who, scope) == ("alice", "admin") else 200


ROUTES = [
    *(("GET", path, "open") for path in OPEN),
    *(("GET", path, "infer") for path in INFER),
    *(("POST", path, "infer") for path in ENDPOINTS),
    *(("POST", path, "admin") for path in ADMIN),
    ("GET", "/logs/echo", "admin"),
]


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_every_route_asks_for_its_scope(
    home: GatewayHome, http: httpx2.Client, method: str, path: str, scope: str
) -> None:
    body = {"model": "echo"} if method == "POST" and "unload" not in path else None
    if "unload" in path:
        body = {"model": "nobody"}
    if path == GENERATE_PATH:
        body = {"model": "echo", "prompt": "Say hi"}
    for who, style in HELD:
        response = http.request(method, path, json=body, headers=headers_of(who, style))
        status = 404 if "unload" in path and who == "ops" else expected(who, scope)
        assert response.status_code == status, (who, style, response.text)
        assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "statuses"),
    [("/events", [401, 401, 200]), ("/logs/echo?follow=true", [401, 401, 403])],
)
def test_streams_of_news_ask_for_theirs(
    http: httpx2.Client, path: str, statuses: list[int]
) -> None:
    for headers, status in zip(({}, {"x-api-key": "wrong"}, ALICE), statuses, strict=True):
        with http.stream("GET", path, headers=headers) as response:
            assert response.status_code == status


@pytest.mark.parametrize("path", [CHAT, "/status", "/logs/echo"])
def test_two_different_keys_are_refused(http: httpx2.Client, path: str) -> None:
    method = "POST" if path == CHAT else "GET"
    body = {"model": "echo"} if method == "POST" else None
    keys = {"authorization": f"Bearer {key_of('alice')}", "x-api-key": key_of("ops")}
    error_of(http.request(method, path, json=body, headers=keys), 400, "invalid_request")


def test_two_headers_of_a_kind_that_decides_are_refused(home: GatewayHome) -> None:
    port = httpx2.URL(home.url).port
    one = [f"host: localhost:{port}", JSON, f"authorization: Bearer {key_of('alice')}"]
    assert raw(home, post_bytes(CHAT, b'{"model": "echo"}', *one)).status == 200
    second = [
        "host: 127.0.0.1",
        "content-type: text/plain",
        f"authorization: Bearer {key_of('ops')}",
    ]
    for other in second:
        answer = raw(home, post_bytes(CHAT, b'{"model": "echo"}', *one, other))
        assert (answer.status, answer.code()) == (400, "invalid_request"), other


def test_a_wrong_key_speaks_the_language_of_the_route(http: httpx2.Client) -> None:
    wrong = {"x-api-key": "wrong"}
    openai = error_of(http.post(CHAT, json={}, headers=wrong), 401, "invalid_api_key")
    assert openai["type"] == "authentication_error"
    anthropic = http.post("/v1/messages", json={}, headers=wrong)
    assert "not known" in anthropic_error_of(anthropic, 401, "authentication_error")
    none = http.post(CHAT, json={})
    assert "Authorization: Bearer" in error_of(none, 401, "invalid_api_key")["message"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:80",
        "[::1]:7000",
        "[::1]",
        "box.lan",
        "[fd00::5]:7000",
    ],
)
def test_hosts_that_are_ours(http: httpx2.Client, host: str) -> None:
    assert http.get("/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", CHAT, "/api/v1/inference/load"])
@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:7000",
        "localhost.attacker.example",
        "127.0.0.1.nip.example",
        "0.0.0.0",
        "169.254.169.254",
        "box.lan@attacker.example",
        "localhost:7000:1",
        "x/openapi.json?",
        "",
    ],
)
def test_hosts_that_are_not(home: GatewayHome, host: str, path: str) -> None:
    fields = [f"host: {host}", JSON, *(f"{n}: {v}" for n, v in home.admin.items())]
    answer = raw(home, post_bytes(path, b'{"model": "echo"}', *fields))
    assert (answer.status, answer.code()) == (421, "host_not_allowed")


def test_a_request_without_a_host(home: GatewayHome) -> None:
    assert raw(home, post_bytes(CHAT, b"{}", JSON)).code() == "invalid_request"


@pytest.mark.parametrize("path", [CHAT, "/status", "/v1/messages", "/health"])
@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://localhost:3001"])
def test_pages_of_other_sites_are_refused(http: httpx2.Client, origin: str, path: str) -> None:
    body = {"model": "echo"} if path in ENDPOINTS else None
    method = "POST" if body else "GET"
    response = http.request(method, path, json=body, headers={"origin": origin, **ALICE})
    assert response.status_code == 403
    assert "may not call this gateway" in response.text
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", [CHAT, "/status"])
def test_pages_of_allowed_sites_are_not(http: httpx2.Client, path: str) -> None:
    body = {"model": "echo"} if path in ENDPOINTS else None
    method = "POST" if body else "GET"
    asked = {
        "origin": PAGE,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization, content-type",
    }

    preflight = http.options(path, headers=asked)
    answer = http.request(method, path, json=body, headers={"origin": PAGE, **ALICE})
    refused = http.request(method, path, json=body, headers={"origin": PAGE})

    assert preflight.status_code == 200
    assert method in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
    assert (answer.status_code, refused.status_code) == (200, 401)
    for response in (preflight, answer, refused):
        assert response.headers["access-control-allow-origin"] == PAGE
        assert response.headers["vary"] == "origin"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_our_own_pages_may(home: GatewayHome, http: httpx2.Client) -> None:
    for origin in (home.url, home.url.replace("127.0.0.1", "localhost")):
        headers = {"origin": origin, "host": origin.removeprefix("http://")}
        response = http.get("/health", headers=headers)
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", [CHAT, "/api/v1/inference/load"])
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonx"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_only_plain_json_is_taken(
    home: GatewayHome, http: httpx2.Client, path: str, headers: dict[str, str]
) -> None:
    response = http.post(path, content=b'{"model": "echo"}', headers={**headers, **home.admin})
    error_of(response, 415, "unsupported_media_type")


def test_headers_are_limited(http: httpx2.Client) -> None:
    many = {f"x-{n}": "1" for n in range(20)}
    error_of(http.get("/health", headers=many), 431, "headers_too_large")
    error_of(http.get("/health", headers={"x-large": "1" * 4096}), 431, "headers_too_large")


def test_bodies_are_limited_to_the_byte(http: httpx2.Client) -> None:
    limit = LIMITS["body_mib"] * 1024 * 1024
    start, end = b'{"model":"echo","url":"', b'"}'
    body = start + b"x" * (limit - len(start) - len(end)) + end
    headers = {"content-type": "application/json", **ALICE}

    reached, _ = recorded(http.post(CHAT, content=body, headers=headers))
    assert reached == body
    error_of(http.post(CHAT, content=body + b" ", headers=headers), 413, "body_too_large")
    pieces = iter([body, b" "])
    error_of(http.post(CHAT, content=pieces, headers=headers), 413, "body_too_large")


OPENAI_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}}
ANTHROPIC_IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "%s"},
}


@pytest.mark.parametrize(
    ("path", "part"), [(CHAT, OPENAI_IMAGE), ("/v1/messages", ANTHROPIC_IMAGE)]
)
def test_an_image_of_four_megabytes_is_no_long_prompt(
    http: httpx2.Client, path: str, part: dict[str, object]
) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": [part]}]}
    request = http.build_request("POST", path, json=body, headers=ALICE)
    # A PNG of 8 by 8 pixels, as far as its header tells.
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\2\0\0\0"
    image = base64.b64encode(header + bytes(3 * 1024 * 1024))
    content = request.content.replace(b"%s", image)
    headers = {"content-type": "application/json", **ALICE}

    reached, _ = recorded(http.post(path, content=content, headers=headers))

    assert len(reached) > 4 * 1024 * 1024
    assert reached == content


@pytest.mark.parametrize("prefix", ["", "data:"])
def test_a_long_prompt_is_refused_whatever_it_begins_with(http: httpx2.Client, prefix: str) -> None:
    messages = [{"role": "user", "content": prefix + "word " * 200_001}]
    response = http.post(CHAT, json={"model": "echo", "messages": messages}, headers=ALICE)
    error = error_of(response, 400, "context_length_exceeded")
    assert "at most 1000000" in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/api/v1/inference/load"])
def test_a_client_that_never_sends_its_body_is_not_waited_for(home: GatewayHome, path: str) -> None:
    port = httpx2.URL(home.url).port
    admin = [f"{n}: {v}" for n, v in home.admin.items()]
    whole = post_bytes(path, b'{"model": "echo"}', f"host: localhost:{port}", JSON, *admin)
    answer = raw(home, whole[:-4])
    assert (answer.status, answer.code()) == (408, "request_timeout")


@pytest.mark.parametrize("sent", ["ok-1_A", "a" * 64])
def test_a_harmless_request_id_is_kept(http: httpx2.Client, sent: str) -> None:
    assert http.get("/health", headers={"x-request-id": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize(
    "sent", ["", "a" * 65, "a b", "../x", 'a"b', "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_a_harmful_one_is_replaced(http: httpx2.Client, sent: str) -> None:
    headers = {"x-request-id": sent.encode()}
    given = http.get("/health", headers=headers).headers["x-request-id"]
    assert given != sent
    assert len(given) == 24


def test_prompts_and_keys_are_never_logged(home: GatewayHome, http: httpx2.Client) -> None:
    canary = "canary-5f2a"
    secret = [{"role": "user", "content": canary}]
    http.post(CHAT, json={"model": "echo", "messages": secret}, headers=ALICE)
    http.post(CHAT, json={"model": canary, "messages": secret}, headers=ALICE)
    http.post(CHAT, json={"model": "echo", "messages": MESSAGES}, headers={"x-api-key": canary})
    http.post("/v1/chat/completions?key=" + canary, json={"model": "echo"}, headers=ALICE)

    log = log_of(home)
    assert '"alice"' in log
    assert canary not in log
    assert key_of("alice") not in log
    assert canary not in http.get("/metrics").text


def test_half_a_request_and_then_nothing_leaves_nothing(home: GatewayHome) -> None:
    for cut in (1, 30, 200):
        request = post_bytes(CHAT, b"x" * 500, "host: localhost", JSON)
        with connected(home) as connection:
            connection.sendall(request[:cut])
    at_rest(home)
