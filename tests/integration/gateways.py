"""Gateways that the tests of one file share, and ways to look at what passes through them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import recording_engine
from tests.harness import ALL, PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home

MESSAGES = [{"role": "user", "content": "Say hi"}]
CHAT = "/v1/chat/completions"
DEFECTS = ("request_defect", "Traceback", "never retrieved", "never awaited", "status 99")
"""What the log of a gateway never has, whatever clients do."""

LAST = "last-of-the-log-"
"""How the ids of requests begin that are only made to see that the log is complete."""


@contextlib.contextmanager
def shared_gateway(
    paths: pytest.TempPathFactory, models: Mapping[str, Any], **settings: Any
) -> Iterator[GatewayHome]:
    """Run a gateway with these models for all tests of a file."""
    root = paths.mktemp("gateway")
    GatewayHome(root).configure({n: model(root) for n, model in models.items()}, **settings)
    with gateway_of(root) as home:
        yield home


@contextlib.contextmanager
def gateway_of(root: Path) -> Iterator[GatewayHome]:
    """Run a gateway on `root/config`; its log must be free of defects in the end."""
    with gateway_home(root) as home:
        home.start()
        yield home
        log = home.log.read_text()
        assert [word for word in DEFECTS if word in log] == [], log


@dataclass(frozen=True)
class Fake:
    """A fake engine with these flags, to be put into a catalog."""

    flags: tuple[str, ...]
    fields: dict[str, Any]
    name: str

    def __call__(self, root: Path) -> dict[str, Any]:
        return fake_model(root, self.name, *self.flags, **self.fields)


def fakes(**models: str) -> dict[str, Fake]:
    """Fake engines by name, each with its flags in one text."""
    return {name: Fake(tuple(flags.split()), {}, name) for name, flags in models.items()}


def fake(name: str, flags: str = "", **fields: Any) -> dict[str, Fake]:
    """A fake engine with other fields of the catalog too."""
    return {name: Fake(tuple(flags.split()), fields, name)}


def recorder(**fields: Any) -> Any:
    """An engine that shows what reaches it."""

    def entry(root: Path) -> dict[str, Any]:
        model = fake_model(root, "recorder")
        witness = model["engine"]["argv"][:6]
        argv = [*witness, sys.executable, recording_engine.__file__, "{port}"]
        able = [*ALL, "rerank", "score"]
        return {
            **model,
            "capabilities": able,
            **fields,
            "engine": {"kind": "command", "argv": argv},
        }

    return entry


def recorded(response: httpx2.Response) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers that reached a recording engine."""
    assert response.status_code == 200, response.text
    shown = response.json()
    return base64.b64decode(shown["body"]), shown["headers"]


def at_rest(home: GatewayHome) -> None:
    """Wait until no lease is out and nobody is in line: whatever a test did, it left nothing."""

    def quiet() -> bool:
        status = http.get("/status").json()
        busy = [m["id"] for m in status["models"] if m["inflight"] or m["waiting"]]
        return not busy and status["queue"]["length"] == 0

    with client_of(home, headers=home.admin) as http:
        eventually(quiet, within_s=10)


def requests_of(home: GatewayHome, **labels: str) -> int:
    """Return how many requests on inference routes were counted with these labels."""
    with client_of(home) as http:
        text = http.get("/metrics").text
    (family,) = [x for x in text_string_to_metric_families(text) if x.name == "llm_requests"]
    return sum(int(s.value) for s in family.samples if labels.items() <= s.labels.items())


def log_of(home: GatewayHome) -> str:
    """Return the log, with the lines of all requests answered so far: they come a moment later."""
    mark = LAST + secrets.token_hex(8)
    home.post(CHAT, {"model": "nobody"}, headers={"x-request-id": mark})
    eventually(lambda: mark in home.log.read_text())
    return "\n".join(line for line in home.log.read_text().splitlines() if LAST not in line)


def client_of(home: GatewayHome, **options: Any) -> httpx2.Client:
    """A client that keeps its connections, and reads no certificates, which takes long."""
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.Client(
        base_url=home.url, timeout=PATIENCE_S, trust_env=False, verify=plain, **options
    )


def error_of(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error object of an OpenAI route, checked for its shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in {"true", "false"}
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return dict(error)


def anthropic_error_of(response: httpx2.Response, status: int, kind: str) -> str:
    """Return the message of an error on an Anthropic route, checked for its shape."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    answer = response.json()
    assert answer["type"] == "error"
    assert set(answer["error"]) == {"type", "message"}
    assert answer["error"]["type"] == kind
    return str(answer["error"]["message"])


def key_setting(name: str, *scopes: str) -> dict[str, Any]:
    """The entry of a key; the key is its name, twice."""
    digest = hashlib.sha256(key_of(name).encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


def key_of(name: str) -> str:
    return f"{name}-{name}"


@dataclass(frozen=True)
class RawAnswer:
    """What came back on a bare socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    def code(self) -> str:
        return str(orjson.loads(self.body)["error"]["code"])


def raw(home: GatewayHome, request: bytes) -> RawAnswer:
    """Send bytes as they are, and read until the gateway hangs up."""
    with connected(home) as connection:
        connection.sendall(request)
        connection.settimeout(PATIENCE_S)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return RawAnswer(int(first.split(" ")[1]), {n.lower(): v for n, v in pairs}, body)


def connected(home: GatewayHome) -> socket.socket:
    """A bare connection to the gateway."""
    address = httpx2.URL(home.url)
    return socket.create_connection((address.host, address.port or 0))


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    """An HTTP request as bytes, with the connection closed after the answer."""
    fields = ["connection: close", f"content-length: {len(body)}", *headers]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields, "", ""]).encode() + body
