"""An engine that answers every POST with what it was asked: `python tests/recording_engine.py PORT`.

The answer has the path, the headers by lower-case name, and the body in base64. It is one of
chat, too.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Shows a request to whoever sent it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        shown = base64.b64encode(body).decode()
        choice = {"index": 0, "message": {"content": shown}, "finish_reason": "stop"}
        about = {"path": self.path, "headers": headers, "body": shown}
        self._answer({**about, "choices": [choice]})

    def _answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base names it so
        """Keep the log empty."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
