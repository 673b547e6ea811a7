"""Waiting for other processes, which tell nobody when they are ready."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Mapping

from bench.processes import Missing


def eventually(
    check: Callable[[], bool], within_s: float, what: str, every_s: float = 0.05
) -> None:
    """Wait until `check` is true.

    Raises:
        Missing: it is not, within `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            raise Missing(f"this within {within_s:g} s: {what}")
        time.sleep(every_s)


def is_listening(port: int) -> bool:
    """Return whether somebody takes connections on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def get(port: int, path: str, timeout_s: float = 5) -> tuple[int, bytes]:
    """Return status and body of the answer to one GET; status 0 where there is none."""
    return _ask(port, "GET", path, None, {}, timeout_s)


def post(
    port: int, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float = 60
) -> tuple[int, bytes]:
    """Return status and body of the answer to one POST; status 0 where there is none."""
    headers = {"content-type": "application/json", **headers}
    return _ask(port, "POST", path, body, headers, timeout_s)


def _ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
