"""Every route with every key, every way of naming another host, and a page of another site."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from llm_backend.gateway.endpoints import ENDPOINTS
from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    at_rest,
    client_of,
    connected,
    key_of,
    key_setting,
    log_of,
    recorder,
    shared_gateway,
)

pytestmark = pytest.mark.engine

OPEN = {"/", "/openapi.json", "/docs", "/metrics", "/metrics/engines"}
OPEN |= {"/health", "/health/live", "/health/ready"}
EXTRA = [
    ("GET", "/models"),
    ("GET", "/models/echo"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    *(("POST", path) for path in ENDPOINTS),
]
ADMIN = {"/api/v1/inference/load", "/api/v1/inference/unload", "/api/v1/cache/clear", "/logs/echo"}


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
            if (status == 403) != refused or status in {400, 401} or status >= 500:
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


# A page of another site


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
BROWSER_S = 60

PAGE = """<!doctype html><title>waiting</title>
<iframe name=frame></iframe>
<form id=plain method=post target=frame enctype=text/plain></form>
<form id=urlencoded method=post target=frame></form>
<form id=multipart method=post target=frame enctype=multipart/form-data></form>
<script>
const gateway = %(gateway)s, bodies = ['{"model": "echo"}', '{}'];
const paths = %(paths)s;
const types = ["application/json", "text/plain", "application/x-www-form-urlencoded", undefined];
const outcomes = [];
async function attempt(name, action) {
  try {
    const answer = await action();
    outcomes.push(name + " " + (answer === undefined ? "sent" : answer.type + " " + answer.status));
  } catch (error) { outcomes.push(name + " refused"); }
}
function socket(path) {
  return new Promise((done, failed) => {
    const ws = new WebSocket(gateway.replace("http", "ws") + path);
    ws.onopen = () => done({type: "websocket", status: 101});
    ws.onerror = failed;
  });
}
function events(path) {
  return new Promise((done, failed) => {
    const source = new EventSource(gateway + path);
    source.onmessage = source.onopen = () => done({type: "events", status: 200});
    source.onerror = failed;
  });
}
async function all() {
  await attempt("events", () => events("/events"));
  for (const path of paths) {
    for (const body of bodies) for (const type of types) for (const mode of ["cors", "no-cors"]) {
      const headers = type === undefined ? {} : {"content-type": type};
      await attempt(`POST ${mode} ${type} ${path}`, () =>
        fetch(gateway + path, {method: "POST", mode, body, headers, credentials: "include"}));
      await attempt(`blob ${mode} ${type} ${path}`, () =>
        fetch(gateway + path, {method: "POST", mode, body: new Blob([body], {type})}));
    }
    await attempt("beacon " + path, () => {
      navigator.sendBeacon(gateway + path, new Blob([bodies[0]], {type: "application/json"}));
      navigator.sendBeacon(gateway + path, bodies[0]);
    });
    for (const method of ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
      await attempt(method + " " + path, () => fetch(gateway + path, {method}));
    await attempt("websocket " + path, () => socket(path));
    for (const id of ["plain", "urlencoded", "multipart"]) {
      const form = document.getElementById(id);
      form.action = gateway + path;
      form.innerHTML = `<input name='{"model": "echo", "x": "' value='"}'>`;
      form.submit();
      await new Promise(done => setTimeout(done, 20));
    }
    const script = document.createElement("script");
    script.src = gateway + path;
    document.body.append(script);
  }
  await fetch("/outcomes", {method: "POST", body: outcomes.join("\\n")});
}
all();
</script>"""


class Site(BaseHTTPRequestHandler):
    """The other site: its page, and where the page tells how it went."""

    def __init__(self, page: bytes, outcomes: list[str], told: threading.Event, *args: Any) -> None:
        self._page = page
        self._outcomes = outcomes
        self._told = told
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(self._page)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._outcomes += body.decode().splitlines()
        self.send_response(204)
        self.end_headers()
        self._told.set()

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


def visited(page: bytes, profile: Path, host: str, port: int = 0) -> list[str]:
    """Open the page in a real browser and return what it says that it could do."""
    outcomes: list[str] = []
    told = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Site, page, outcomes, told)) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        # The other site's name leads to this machine, as after DNS rebinding.
        command = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            "--remote-debugging-port=0",
            f"http://{host}:{site.server_port}/",
        ]
        quiet = subprocess.DEVNULL
        browser = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            assert told.wait(BROWSER_S), "the page did not come to its end"
        finally:
            browser.terminate()
            browser.wait(BROWSER_S)
            site.shutdown()
    return outcomes


@pytest.fixture(scope="module")
def friend() -> int:
    """The port of a site whose pages may call the gateway."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory, friend: int) -> Iterator[GatewayHome]:
    """A gateway that anyone on this machine may ask: no key is needed to infer."""
    server = {"port": 0, "cors_origins": [f"http://friend.example:{friend}"]}
    with shared_gateway(tmp_path_factory, {"echo": recorder()}, server=server) as home:
        yield home


def page(gateway: GatewayHome, name: str, paths: list[str]) -> bytes:
    port = httpx2.URL(gateway.url).port
    return (PAGE % {"gateway": f'"http://{name}:{port}"', "paths": str(paths)}).encode()


def served(gateway: GatewayHome) -> list[str]:
    """Return what the log says of requests that got as far as the pipeline."""
    lines = [line for line in log_of(gateway).splitlines() if line.startswith("{")]
    return [line for line in lines if orjson.loads(line)["event"] == "request"]


def readable(outcomes: list[str]) -> list[str]:
    return [line for line in outcomes if not re.search(r" (refused|sent|opaque 0)$", line)]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "attacker.example"])
def test_a_page_of_another_site_reaches_nothing(
    unlocked: GatewayHome, tmp_path: Path, name: str
) -> None:
    """Not by our own names, nor by a name of its own that leads here, as after DNS rebinding."""
    before = len(served(unlocked))
    paths = [CHAT, "/v1/messages", "/tokenize", *sorted(ADMIN)]

    outcomes = visited(page(unlocked, name, paths), tmp_path, "attacker.example")

    assert len(outcomes) > 100
    assert readable(outcomes) == [], "the page could read an answer"
    assert unlocked.state("echo") == "stopped"
    assert served(unlocked)[before:] == [], "a request got as far as the pipeline"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_of_an_allowed_site_reaches_what_is_open(
    unlocked: GatewayHome, tmp_path: Path, friend: int
) -> None:
    """The same page, so that the test before would see what gets through."""
    outcomes = visited(page(unlocked, "127.0.0.1", [CHAT]), tmp_path, "friend.example", friend)

    assert f"blob cors application/json {CHAT} cors 200" in readable(outcomes)
    assert served(unlocked)
    assert unlocked.state("echo") == "awake"
