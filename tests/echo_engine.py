"""An engine that says again whatever it was asked: `python tests/echo_engine.py PORT`.

It also fails on demand, and repeats the request then too: a field `fault` in the body is `status`
(an error), `garbage` (no JSON), `abort` (given up amid a stream) or `cut` (the connection is
dropped).
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


class Handler(BaseHTTPRequestHandler):
    """Answers in the shape of the API that it is asked in."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        asked = json.loads(body)
        heard = body + str(self.headers)
        fault = asked.get("fault")
        if fault == "status":
            self._answer(400, {"error": {"message": heard, "type": heard, "code": 400}})
        elif fault == "garbage":
            self._send(200, heard.encode(), "application/json")
        elif asked.get("stream"):
            self._stream(heard, fault)
        elif fault == "cut":
            self.close_connection = True
        else:
            self._answer(200, self._whole(heard))

    def _whole(self, heard: str) -> dict[str, Any]:
        if self.path == "/v1/messages":
            content = [{"type": "text", "text": heard}]
            usage = {"input_tokens": 3, "output_tokens": 5}
            head = {"type": "message", "role": "assistant", "stop_reason": "end_turn"}
            return {**head, "content": content, "usage": usage}
        if self.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5], "text": heard}]
            return {"object": "list", "model": heard, "data": data, "usage": USAGE}
        message = {"role": "assistant", "content": heard}
        choice = {"index": 0, "message": message, "text": heard, "finish_reason": "stop"}
        return {"id": heard, "object": "chat.completion", "choices": [choice], "usage": USAGE}

    def _stream(self, heard: str, fault: str | None) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        delta = {"role": "assistant", "content": heard}
        reason = "abort" if fault == "abort" else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"object": "chat.completion.chunk", "choices": [choice]}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        if fault is None:
            last = {**chunk, "choices": [], "usage": USAGE}
            self.wfile.write(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base names it so
        """Keep the log empty."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
