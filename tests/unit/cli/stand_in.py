"""A stand-in for the gateway: a real HTTP server that speaks the control API from a table."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

STATUS: dict[str, Any] = {
    "is_loaded": True,
    "model": "tiny",
    "uptime_s": 75.2,
    "mode": "auto",
    "default": "tiny",
    "switch": None,
    "queue": {"length": 0, "limit": 512, "by_model": {}},
    "models": [
        {
            "id": "tiny",
            "state": "awake",
            "residency": "awake",
            "inflight": 2,
            "waiting": 0,
            "reason": None,
            "available": True,
            "unavailable_reason": None,
        },
        {
            "id": "boxed",
            "state": "stopped",
            "residency": "stopped",
            "inflight": 0,
            "waiting": 0,
            "reason": None,
            "available": False,
            "unavailable_reason": "it runs as docker",
        },
    ],
}
HEALTH: dict[str, Any] = {
    "status": "ok",
    "gateway": {"status": "ok", "version": "0.1.0", "pid": 1, "uptime_s": 75.2},
    "cache": {"status": "ok", "backend": "memory", "entries": 3},
    "devices": {"cpu": {"name": "CPU, 8 cores", "total_mib": 16384, "free_mib": 512}},
    "models": {},
    "helpers": {},
}
KEY = "llmb-admin-of-the-stand-in"


@dataclass
class Received:
    """One request that reached the stand-in."""

    method: str
    path: str
    key: str | None
    body: Any


@dataclass
class StandIn:
    """What the stand-in answers, and what it was asked.

    Attributes:
        answers: Status and body by method and path; a body of type str is sent as it is, one of
            type bytes as a stream.
        script: The statuses of the next answers by path; what is not 200 is an error object.
        events: What `GET /events` sends, before it stays open.
        hold: Loads, and what is `held`, wait until this is set.
        held: More paths that wait.
        told: Set once somebody has read the events.
    """

    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    script: dict[str, list[int]] = field(default_factory=dict)
    events: list[tuple[str, Any]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    held: set[str] = field(default_factory=set)
    told: threading.Event = field(default_factory=threading.Event)
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.hold.set()
        self.answers |= {
            ("GET", "/health/live"): (200, {"status": "ok"}),
            ("GET", "/health"): (200, HEALTH),
            ("GET", "/status"): (200, STATUS),
            ("POST", "/api/v1/inference/load"): (
                200,
                {"model": "tiny", "state": "awake", "seconds": 1.25},
            ),
            ("POST", "/api/v1/inference/unload"): (200, {"unloaded": ["tiny"]}),
            ("POST", "/api/v1/cache/clear"): (200, {"cleared": 3}),
        }

    def refuse(self, method: str, path: str, status: int, code: str, message: str) -> None:
        """Answer with an error object."""
        error = {"message": message, "type": "x", "param": None, "code": code}
        self.answers[method, path] = (status, {"error": error})

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        """Return status and body of the next answer."""
        if (scripted := self.script.get(path)) and (status := scripted.pop(0)) != 200:
            error = {"message": "It was scripted.", "type": "x", "param": None, "code": "x"}
            return status, {"error": error}
        return self.answers.get((method, path), (404, {}))


def streamed(*pieces: str, model: str = "tiny", reason: str = "stop", wait: str = "") -> bytes:
    """Return an answer as a stream of chunks, and before it a comment where one is given."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    frames = [f"data: {json.dumps({'model': model, **chunk})}\n\n" for chunk in chunks]
    comment = f": {wait}\n\n" if wait else ""
    return "".join([comment, *frames, "data: [DONE]\n\n"]).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stand_in = stand_in


@contextmanager
def standing_in(state_dir: Path) -> Iterator[StandIn]:
    """Run a stand-in, with its run record in `state_dir`; this process is its process."""
    stand_in = StandIn()
    server = _Server(stand_in)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    write_record(state_dir, url=stand_in.url)
    (state_dir / "admin.key").write_text(KEY + "\n")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def write_record(state_dir: Path, **changes: Any) -> None:
    """Write a run record that names this process."""
    state_dir.mkdir(parents=True, exist_ok=True)
    record = {
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "url": "http://127.0.0.1:1",
        "version": "0.1.0",
        "setup": "local",
        "log": str(state_dir / "logs" / "gateway.log"),
        "started": 0,
    }
    (state_dir / "gateway.json").write_text(json.dumps(record | changes))


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/events":
            self._send_events()
        else:
            self._answer(None)

    def do_DELETE(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        told = self.server.stand_in
        key = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        told.received.append(Received(self.command, self.path, key, body))
        if self.path in {"/api/v1/inference/load", *told.held}:
            told.hold.wait(30)
        status, answer = told.answer(self.command, self.path)
        with suppress(ConnectionError):
            if isinstance(answer, bytes):
                self._begin(status, "text/event-stream", len(answer))
                self.wfile.write(answer)
                return
            text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self._begin(status, "application/json", len(text))
            self.wfile.write(text)

    def _send_events(self) -> None:
        with suppress(ConnectionError):
            self._begin(200, "text/event-stream")
            for kind, data in self.server.stand_in.events:
                self.wfile.write(f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()
            self.server.stand_in.told.set()
            self.server.stand_in.hold.wait(30)

    def _begin(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
