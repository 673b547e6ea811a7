"""An HTTP server that speaks the gateway's routes, and misbehaves when a test scripts it to.

It writes raw bytes on raw sockets, because no well-kept server can be made to cut a chunk short.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

After = Literal["end", "cut", "silence"]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    route: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer in parts; `after` says what follows the last one."""

    status: int = 200
    parts: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    after: After = "end"


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    """Answer with JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status, (json.dumps(body).encode(),), {"content-type": "application/json", **named}
    )


def refusal(status: int, code: object = None, message: str = "no", **headers: str) -> Reply:
    """Answer with an OpenAI error object."""
    error = {"message": message, "type": "api_error", "param": None, "code": code}
    return reply({"error": error}, status, **headers)


def events(*lines: str | bytes, after: After = "end") -> Reply:
    """Answer with a stream; each line, with the blank line behind it, is a part."""
    parts = tuple((x if isinstance(x, bytes) else x.encode()) + b"\n\n" for x in lines)
    return Reply(200, parts, {"content-type": "text/event-stream"}, after)


def chunk(text: str, **extra: object) -> str:
    """Return the line of a chat chunk."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return f"data: {json.dumps({'id': 'c1', 'model': 'tiny', 'choices': [choice], **extra})}"


def completion(text: str, model: str = "tiny") -> dict[str, Any]:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1_764_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


HEALTH: dict[str, Any] = {
    "status": "ok",
    "gateway": {"status": "ok", "version": "0.1.0", "pid": 7, "uptime_s": 12.5},
    "cache": {"kind": "memory", "status": "ok"},
    "devices": {"cpu": {"name": "CPU", "total_mib": 16000, "free_mib": 9000}},
    "models": {"tiny": {"state": "awake", "residency": "awake", "inflight": 1, "reason": None}},
    "helpers": {},
}
STATUS: dict[str, Any] = {
    "is_loaded": True,
    "model": "tiny",
    "model_path": "/models/tiny.gguf",
    "timestamp": "2026-11-21T14:00:00Z",
    "uptime_s": 12,
    "mode": "auto",
    "default": "tiny",
    "switch": {
        "to": "coder",
        "from": "tiny",
        "step": "drain",
        "elapsed_s": 0.5,
        "estimate_s": 4.0,
        "progress": {"text": "loading weights", "fraction": 0.5},
    },
    "queue": {"length": 1, "limit": 512, "by_model": {"coder": 1}},
    "models": [{"id": "tiny", "purpose": "chat", "state": "awake", "inflight": 1, "waiting": 0}],
}
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [
        {"id": "tiny", "object": "model", "max_model_len": 2048, "capabilities": ["chat"]},
        {"id": "coder", "object": "model", "owned_by": "someone else"},
    ],
}


class Server:
    """The server, on a thread and an event loop of its own.

    Attributes:
        seen: Every request, in order.
        connections: How many connections were opened.
        arrived: Set when the first request has arrived.
        left: Set when a client hung up on an answer that was not over.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.arrived = threading.Event()
        self.left = threading.Event()
        self.port = 0
        self._scripts: dict[str, deque[Reply]] = {}
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, route: str, *replies: Reply) -> None:
        """Give these answers to the next requests of a route; then the good one again."""
        self._scripts.setdefault(route, deque()).extend(replies)

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        thread.start()
        try:
            assert self._ready.wait(10)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(10)
            assert not thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        # A connection that is just being taken in has no handler yet.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in self._handlers.values():
                writer.close()
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._handlers[task] = writer
        task.add_done_callback(self._handlers.pop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(await _read_request(reader), reader, writer):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(
        self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.seen.append(request)
        self.arrived.set()
        script = self._scripts.get(request.route)
        answer = script.popleft() if script else _good(request)
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        if answer.status:
            writer.write(f"HTTP/1.1 {answer.status} X\r\n{head}".encode())
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
        try:
            for part in answer.parts:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
        except ConnectionError:
            self.left.set()
            raise
        if answer.after == "end":
            writer.write(b"0\r\n\r\n")
        if answer.after == "silence":
            with suppress(ConnectionError):
                await reader.read()
            self.left.set()
        return answer.after == "end"


async def _read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    headers = {
        name.lower(): value.strip() for name, _, value in (x.partition(":") for x in head[1:] if x)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(head[0].rsplit(" ", 1)[0], headers, body)


def _good(request: Seen) -> Reply:
    if request.route == "POST /v1/chat/completions":
        return _chat(request.json())
    if request.route == "POST /api/v1/inference/load":
        return _load(request)
    bodies = {"GET /health": HEALTH, "GET /status": STATUS, "GET /v1/models": MODELS}
    if request.route in bodies:
        return reply(bodies[request.route])
    return refusal(404, "not_found", f"There is no {request.route}.")


def _load(request: Seen) -> Reply:
    if request.headers.get("authorization") != "Bearer admin-key":
        return refusal(403, "insufficient_scope", "This key cannot switch.")
    body = request.json()
    if not body["wait"]:
        return reply({"model": body["model"], "state": "starting"}, 202)
    return reply({"model": body["model"], "state": "awake", "seconds": 3.5})


def _structured(body: dict[str, Any]) -> str:
    """Answer as a model that reads the names out of letters, and makes something up for prices."""
    asked = str(body["messages"][0]["content"])
    if "price" in asked:
        return json.dumps({"price": "cheap"})
    name = next((n for n in ("Анна Ёлкина", "Пётр Щукин") if n in asked), None)
    return json.dumps({"name": name, "symptoms": ["кашель"], "date": "2026-12-01"})


def _chat(body: dict[str, Any]) -> Reply:
    model = body.get("model", "tiny")
    if model not in {"tiny", "coder"}:
        return refusal(404, "model_not_found", f"There is no model {model!r}.")
    text = _structured(body) if "response_format" in body else "Two and two make four."
    if not body.get("stream"):
        return reply(completion(text, model), x_request_id="req-1")
    words = [chunk(word if i == 0 else f" {word}") for i, word in enumerate(text.split())]
    return events(f": loading {model}, about 4 s left", *words, "data: [DONE]")
