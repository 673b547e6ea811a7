"""A page of another site, in a real browser, and the same page from a site that is allowed."""

from __future__ import annotations

import re
import shutil
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

from llm_backend.runtimes.ports import free_port
from tests.harness import GatewayHome
from tests.integration.gateways import CHAT, log_of, recorder, shared_gateway

pytestmark = [pytest.mark.engine, pytest.mark.feature("pages of other sites")]

ADMIN = ["/api/v1/cache/clear", "/api/v1/inference/load", "/api/v1/inference/unload", "/logs/echo"]
CONSOLE = ["/console", "/console/main.js", "/api/v1/history", "/api/v1/device/lease"]
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
    return free_port("127.0.0.1")


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
    paths = [CHAT, "/v1/messages", "/tokenize", *ADMIN, *CONSOLE]

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
