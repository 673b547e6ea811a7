"""An engine that answers chats as their last words ask: `python drafting_engine.py PORT`.

It knows these words: `broken` (JSON that ends too early), `wrong` (JSON of another shape), `long`
(cut off, unless it may write 64 tokens), `tool` (two tool calls; their parts come in turns where
it streams) and `die` (it exits amid the answer). Told that an answer is wrong, it answers right;
asked for `hopeless`, it never does.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"name": "Анна Ёлкина", "symptoms": "кашель 🤧", "phone": None}
CALLS = [("weather", '{"city": "Псков"}'), ("clock", '{"zone": "Europe/Moscow"}')]


def draft(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a message and why it ends."""
    messages = body["messages"]
    first, mended = str(messages[0]["content"]), len(messages) > 1
    text = json.dumps(GOOD)  # with escapes, as some engines write
    if "tool" in first and not mended:
        calls = [
            {"id": f"call-{i}", "type": "function", "function": {"name": n, "arguments": a}}
            for i, (n, a) in enumerate(CALLS)
        ]
        return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    if "hopeless" in first or ("broken" in first and not mended):
        text = text[:-3]
    elif "wrong" in first and not mended:
        text = '{"surname": "Ёлкина"}'
    elif "long" in first and body.get("max_tokens", 0) < 64:
        return {"role": "assistant", "content": text[:9]}, "length"
    return {"role": "assistant", "content": text}, "stop"


def deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message in parts, those of several tool calls in turns."""
    heads, halves, rests = [], [], []
    for index, call in enumerate(message.get("tool_calls", ())):
        text = call["function"]["arguments"]
        empty = {"name": call["function"]["name"], "arguments": ""}
        heads.append({**call, "index": index, "function": empty})
        halves.append({"index": index, "function": {"arguments": text[:9]}})
        rests.append({"index": index, "function": {"arguments": text[9:]}})
    parts = [{"tool_calls": [part]} for part in (*heads, *halves, *rests)]
    return parts or [{"content": message["content"]}]


class Handler(BaseHTTPRequestHandler):
    """Answers chats, whole or streamed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send("application/json", b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "messages" not in body:  # the probe of the gateway
            self._send("application/json", b'{"choices": [{"text": "a"}]}')
            return
        if "die" in str(body["messages"]):
            os._exit(3)
        message, finish = draft(body)
        about = {"id": "c1", "object": "chat.completion", "model": body["model"], "created": 1}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self._send("application/json", json.dumps({**about, "choices": [choice]}).encode())
            return
        parts: list[tuple[dict[str, Any], str | None]] = [(d, None) for d in deltas(message)]
        frames = [
            json.dumps({**about, "choices": [{"index": 0, "delta": d, "finish_reason": f}]})
            for d, f in [*parts, ({}, finish)]
        ]
        stream = "".join(f"data: {frame}\n\n" for frame in [*frames, "[DONE]"])
        self._send("text/event-stream", stream.encode())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base names it so
        """Keep the log empty."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
