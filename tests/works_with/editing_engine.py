"""An engine that answers every chat with a new `greeting.py`: `python ... PORT MODEL`.

The file greets from the model. The answer is in the form that aider calls "whole".
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


class Handler(BaseHTTPRequestHandler):
    """Answers in one piece or as a stream."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(b"{}", "application/json")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = f"greeting.py\n```\nprint('Hello from {sys.argv[2]}')\n```\n"
        if asked.get("stream"):
            frames = [chunk(delta={"role": "assistant"}), chunk(delta={"content": text})]
            frames.append(chunk(delta={}, finish_reason="stop"))
            content = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
            self._send(content.encode() + b"data: [DONE]\n\n", "text/event-stream")
        else:
            message = {"role": "assistant", "content": text}
            whole = chunk(message=message, finish_reason="stop") | {"object": "chat.completion"}
            self._send(json.dumps({**whole, "usage": USAGE}).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base names it so
        """Keep the log empty."""


def chunk(**choice: Any) -> dict[str, Any]:
    head = {"id": "edit", "object": "chat.completion.chunk", "created": 0, "model": sys.argv[2]}
    return {**head, "choices": [{"index": 0, "finish_reason": None, **choice}]}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
