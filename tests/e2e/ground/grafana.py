"""Stands in for Grafana, of which no package is to be had: it answers its health check, no more.

What it cannot show: that provisioning loads and that dashboards render.
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    """Answers GET /api/health as Grafana does."""

    def do_GET(self) -> None:
        is_health = self.path == "/api/health"
        body = json.dumps({"database": "ok", "version": "stand-in"} if is_health else {}).encode()
        self.send_response(200 if is_health else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port = int(os.environ.get("GF_SERVER_HTTP_PORT", "3000"))
    ThreadingHTTPServer(("0.0.0.0", port), Health).serve_forever()
