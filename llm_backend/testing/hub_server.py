"""A model hub on loopback: a directory behind the part of the hub's protocol that downloads use.

    python -m llm_backend.testing.hub_server DIRECTORY [--port N] [--token T] [--gated] ...

`DIRECTORY/<org>/<name>/` is a repository. Every repository has one commit, `COMMIT`, and
`main` stands for it. A file of 64 KiB or more counts as stored by LFS: the hub announces its
SHA-256 and redirects to it. Faults are options, so that a test says what goes wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

COMMIT: Final = "c0ffee00" * 5
_LFS_BYTES: Final = 64 * 1024
_CHUNK: Final = 16 * 1024


@dataclass(slots=True)
class Faults:
    """What this hub does wrong.

    Attributes:
        token: Bearer token without which it answers 401.
        gated: Files are refused with 403, though the listing is open.
        cut_after: Bytes of a file after which the connection is cut.
        cuts: How many more times that happens.
        ignore_range: A request for the rest of a file is answered with all of it.
        corrupt: The bytes sent are not those that were announced.
        announce: Size in bytes announced for every LFS file, in place of its own.
        status: Answer to every request.
        page: Sent in place of every answer, as a captive portal does.
    """

    token: str | None = None
    gated: bool = False
    cut_after: int = 0
    cuts: int = 0
    ignore_range: bool = False
    corrupt: bool = False
    announce: int | None = None
    status: int | None = None
    page: str | None = None


class ModelHub(ThreadingHTTPServer):
    """The server; `requests` lists what was asked for: path and `Range`."""

    daemon_threads = True

    def __init__(self, root: Path, faults: Faults, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.faults = faults
        self.requests: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` has to be."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over clients that leave in the middle: downloads are there to be interrupted."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it came

    def spend_cut(self) -> bool:
        """Return whether this answer is to be cut."""
        with self.lock:
            if self.faults.cuts == 0:
                return False
            self.faults.cuts -= 1
            return True


@contextmanager
def serving(root: Path, faults: Faults | None = None) -> Iterator[ModelHub]:
    """Run a hub in a thread for as long as the context lasts."""
    with ModelHub(root, faults or Faults()) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        answer = self._refusal(parts)
        if answer is not None:
            self._send(answer)
        elif parts[:2] == ["api", "models"]:
            self._send(self._listing("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"))
        elif parts[0] == "cdn":
            self._send_file(self.server.root.joinpath(*parts[1:]))
        else:
            self._resolve(parts)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Keep quiet: `requests` tells more."""

    def _refusal(self, parts: list[str]) -> _Answer | None:
        faults = self.server.faults
        if faults.page is not None:
            return _Answer(200, {"Content-Type": "text/html"}, faults.page.encode())
        if faults.status is not None:
            return _Answer(faults.status)
        sent = self.headers.get("Authorization")
        if faults.token and parts[0] != "cdn" and sent != f"Bearer {faults.token}":
            return _error(401, "RepoNotFound", "Invalid username or password.")
        return None

    def _listing(self, repo: str, revision: str) -> _Answer:
        folder = self.server.root / repo
        if not folder.is_dir():
            return _error(404, "RepoNotFound", "Repository not found")
        if revision not in {"main", COMMIT}:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [self._sibling(folder, path) for path in files]
        body = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        return _Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _sibling(self, folder: Path, path: Path) -> dict[str, object]:
        content = path.read_bytes()
        entry: dict[str, object] = {
            "rfilename": path.relative_to(folder).as_posix(),
            "size": len(content),
            "blobId": _git_digest(content),
        }
        if len(content) >= _LFS_BYTES:
            size = self.server.faults.announce or len(content)
            sha256 = hashlib.sha256(content).hexdigest()
            entry |= {"size": size, "lfs": {"sha256": sha256, "size": size, "pointerSize": 135}}
        return entry

    def _resolve(self, parts: list[str]) -> None:
        """Answer `/<org>/<name>/resolve/<revision>/<file>`."""
        path = self.server.root.joinpath(*parts[:2], *parts[4:])
        if self.server.faults.gated:
            self._send(_error(403, "GatedRepo", "Access to this model is restricted."))
        elif parts[2:3] != ["resolve"] or not path.is_file():
            self._send(_error(404, "EntryNotFound", "Entry not found"))
        elif path.stat().st_size < _LFS_BYTES:
            self._send_file(path)
        else:
            relative = path.relative_to(self.server.root).as_posix()
            headers = {"Location": f"{self.server.url}/cdn/{relative}", "X-Repo-Commit": COMMIT}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(path.stat().st_size)}
            self._send(_Answer(302, headers))

    def _send_file(self, path: Path) -> None:
        content = path.read_bytes()
        if self.server.faults.corrupt:
            content = bytes(byte ^ 0xFF for byte in content)
        asked = self.headers.get("Range")
        if asked is None or self.server.faults.ignore_range:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_git_digest(content)}"'}
            self._send(_Answer(200, headers, content), cuttable=True)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(_Answer(206, {"Content-Range": span}, content[start:]), cuttable=True)

    def _send(self, answer: _Answer, *, cuttable: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(answer.body)
        if cuttable and self.server.faults.cut_after < end and self.server.spend_cut():
            end = self.server.faults.cut_after
            self.close_connection = True
        for start in range(0, end, _CHUNK):
            self.wfile.write(answer.body[start : min(start + _CHUNK, end)])


def _error(status: int, code: str, message: str) -> _Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return _Answer(status, headers, json.dumps({"error": message}).encode())


def _git_digest(content: bytes) -> str:
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def main() -> None:
    """Serve a directory until the process is ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token")
    parser.add_argument("--gated", action="store_true")
    parser.add_argument("--corrupt", action="store_true")
    parser.add_argument("--cut-after", type=int, default=0, metavar="BYTES")
    parser.add_argument("--cuts", type=int, default=0, metavar="TIMES")
    options = vars(parser.parse_args())
    directory, port = options.pop("directory"), options.pop("port")
    with ModelHub(directory, Faults(**options), port) as hub:
        print(hub.url, flush=True)  # noqa: T201  # whoever started it reads the address here
        hub.serve_forever()


if __name__ == "__main__":
    main()
