"""What gets through the filter in front of Docker: a real HAProxy, before a server that takes all."""

from __future__ import annotations

import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker_filter import CONFIG, docker_filter

NAMES = "llm-qwen-vl|llm-qwen-14b|llm-qwen-coder"
A = "/containers/llm-qwen-14b"
ID = "4ca2e786ff29b0c9a3e0f6e1d2c3b4a5968778695a4b3c2d1e0f9a8b7c6d5e4f"

ALLOWED = [
    "GET /_ping",
    "HEAD /_ping",
    "GET /v1.50/_ping",
    "GET /version",
    "GET /v1.24/version",
    "GET /v1.50/version",
    "GET /v1.100/version",
    "GET /events",
    "GET /v1.50/events",
    "GET /v1.50/events?filters=%7B%22type%22%3A+%5B%22container%22%5D%7D",
    "GET /v1.50/events?since=1763746170&until=1763746171.5",
    f"GET {A}/json",
    f"GET /v1.50{A}/json",
    "GET /containers/llm-qwen-vl/json",
    "GET /containers/llm-qwen-coder/json",
    f"GET {A}/logs?stdout=1&stderr=1&follow=1&timestamps=1&tail=100&since=1763746170.25",
    f"GET /v1.50{A}/logs?stderr=1&stdout=1&tail=all",
    f"POST {A}/start",
    f"POST /v1.41{A}/start",
    f"POST {A}/stop",
    f"POST /v1.50{A}/stop?t=20",
    f"POST {A}/kill",
    f"POST {A}/kill?signal=SIGKILL",
    f"POST {A}/kill?signal=TERM",
    f"POST {A}/wait",
    f"POST /v1.50{A}/wait?condition=next-exit",
]

REFUSED = [
    # other things that Docker can do
    "GET /info",
    "GET /v1.50/info",
    "GET /system/df",
    "GET /containers/json",
    "GET /v1.50/containers/json?all=1",
    "POST /containers/create",
    "POST /v1.50/containers/create?name=llm-qwen-14b",
    "POST /containers/prune",
    "GET /images/json",
    "POST /images/create?fromImage=alpine",
    "POST /images/load",
    "GET /images/alpine/get",
    "DELETE /images/alpine",
    "POST /images/prune",
    "POST /build",
    "POST /build/prune",
    "POST /session",
    "POST /grpc",
    "POST /commit?container=llm-qwen-14b",
    "POST /auth",
    "GET /networks",
    "POST /networks/create",
    "POST /networks/bridge/connect",
    "DELETE /networks/bridge",
    "GET /volumes",
    "POST /volumes/create",
    "DELETE /volumes/x",
    "GET /plugins",
    "POST /plugins/pull?remote=x",
    "POST /plugins/x/enable",
    "GET /swarm",
    "POST /swarm/init",
    "GET /nodes",
    "GET /services",
    "POST /services/create",
    "GET /tasks",
    "GET /secrets",
    "POST /secrets/create",
    "GET /configs",
    "GET /distribution/alpine/json",
    "POST /exec/abc/start",
    "GET /exec/abc/json",
    "GET /metrics",
    "GET /debug/pprof/",
    "GET /",
    # other things that can be done to an engine
    f"POST {A}/exec",
    f"POST /v1.50{A}/exec",
    f"POST {A}/attach?stream=1&stdin=1",
    f"GET {A}/attach/ws?stream=1",
    f"POST {A}/update",
    f"POST {A}/rename?name=x",
    f"POST {A}/restart",
    f"POST {A}/pause",
    f"POST {A}/unpause",
    f"POST {A}/resize?h=1&w=1",
    f"GET {A}/archive?path=/etc",
    f"PUT {A}/archive?path=/",
    f"HEAD {A}/archive?path=/",
    f"GET {A}/export",
    f"GET {A}/top",
    f"GET {A}/stats",
    f"GET {A}/changes",
    f"DELETE {A}",
    f"DELETE {A}?force=1",
    f"POST {A}/copy",
    f"GET {A}/checkpoints",
    f"POST {A}/checkpoints",
    f"GET {A}",
    # the wrong method
    f"POST {A}/json",
    f"POST {A}/logs",
    f"GET {A}/start",
    f"PUT {A}/stop",
    f"DELETE {A}/kill",
    f"HEAD {A}/json",
    "POST /_ping",
    "OPTIONS /version",
    "CONNECT localhost:2375",
    f"post {A}/start",
    # options that do more
    f"POST {A}/start?checkpoint=x&checkpoint-dir=/",
    f"POST {A}/start?detachKeys=a",
    f"POST {A}/stop?t=1&signal=USR1",
    f"POST {A}/stop?t=-1",
    f"POST {A}/kill?signal=USR1",
    f"POST {A}/kill?signal=9",
    f"POST {A}/wait?condition=removed",
    f"GET {A}/json?size=1",
    # other containers, and what only looks like one of ours
    "GET /containers/redis/json",
    "POST /containers/gateway/start",
    "POST /containers/llm-qwen-14b2/start",
    "POST /containers/xllm-qwen-14b/start",
    "POST /containers/llm-qwen-14/start",
    "POST /containers/llm-qwen/start",
    "POST /containers//start",
    "POST /containers/llm-qwen-14b|llm-qwen-vl/start",
    "POST /containers/LLM-QWEN-14B/start",
    f"POST /containers/{ID}/start",
    f"POST /containers/{ID[:12]}/start",
    # other spellings of a path
    "POST /containers/llm-qwen-14b%00/start",
    "POST /containers/llm%2Dqwen-14b/start",
    "POST /containers%2Fllm-qwen-14b%2Fstart",
    "POST /containers/llm-qwen-14b%2f..%2fredis/start",
    "POST /containers/llm-qwen-14b/../redis/start",
    "POST /containers/redis/../llm-qwen-14b/start",
    "POST /containers/./llm-qwen-14b/start",
    "GET /containers/llm-qwen-14b/json/../../json",
    "POST //containers/llm-qwen-14b/start",
    "POST /containers//llm-qwen-14b/start",
    "POST /containers/llm-qwen-14b//start",
    "POST /containers/llm-qwen-14b/start/",
    "POST /containers/llm-qwen-14b/start;x",
    "POST /containers/llm-qwen-14b/start%20",
    "POST /containers/llm-qwen-14b/start#x",
    "POST /containers/llm-qwen-14b/exec?/start",
    "POST /x/containers/llm-qwen-14b/start",
    "GET /_ping/../containers/json",
    "GET /_ping?x",
    "GET /version/../info",
    "GET http://docker/containers/json",
    "GET http://docker/v1.50/containers/llm-qwen-14b/json",
    # versions: the old ones took a body with `start`
    "POST /v1.23/containers/llm-qwen-14b/start",
    "POST /v1.2/containers/llm-qwen-14b/start",
    "POST /v2.0/containers/llm-qwen-14b/start",
    "POST /v1x50/containers/llm-qwen-14b/start",
    "POST /v1.50/v1.50/containers/llm-qwen-14b/start",
    "POST /v1.50x/containers/llm-qwen-14b/start",
    "GET /v1.50/_ping/x",
    "GET /events/x",
    "GET /events?filters=%7B%7D#/../info",
]

START = f"POST {A}/start HTTP/1.1\r\nHost: docker\r\n".encode()
CREATE = b"POST /containers/create HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n\r\n{}"
UNDERHAND = {
    "a body": START + b"Content-Length: 2\r\n\r\n{}",
    "a chunked body": START + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "both framings": START
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + CREATE,
    "two lengths": START + b"Content-Length: 0\r\nContent-Length: 90\r\n\r\n" + CREATE,
    "a folded framing": START + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + CREATE,
    "a framing with a tab": START + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + CREATE,
    "an unknown framing": START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + CREATE,
    "a negative length": START + b"Content-Length: -1\r\n\r\n" + CREATE,
    "an upgrade": START + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    "a websocket": f"GET {A}/json HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n".encode(),
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/0.9": b"GET /containers/json\r\n",
    "HTTP/1.0": b"POST /containers/create HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    "a tab in the target": b"GET\t/containers/json\tHTTP/1.1\r\nHost: docker\r\n\r\n",
    "a line feed in the target": b"GET /_ping\nGET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bare carriage return": b"GET /_ping HTTP/1.1\rX: y\r\nHost: x\r\n\r\n",
    "a null byte": b"GET /_ping\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes": b"POST /containers/llm-qwen-14b\xff/start HTTP/1.1\r\nHost: x\r\n\r\n",
    "another method by header": b"POST /containers/create HTTP/1.1\r\nHost: x\r\n"
    b"X-HTTP-Method-Override: GET\r\nX-Original-URL: /_ping\r\nContent-Length: 2\r\n\r\n{}",
}
SECOND_IN_LINE = {
    "pipelined": f"GET {A}/json HTTP/1.1\r\nHost: docker\r\n\r\n".encode() + CREATE,
    "pipelined after HTTP/1.0": b"GET /_ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + CREATE,
    "a body to a read": b"GET /_ping HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"
    + CREATE,
}


class Docker(socketserver.ThreadingUnixStreamServer):
    """Answers everything, on connections that stay open, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(str(path), Answer)


class Answer(socketserver.StreamRequestHandler):
    server: Docker

    def handle(self) -> None:
        while line := self.rfile.readline():
            self.server.asked.append(line.decode("latin-1").rsplit(" ", 1)[0])
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with Docker(tmp_path_factory.mktemp("docker") / "docker.sock") as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def address(docker: Docker) -> Iterator[tuple[str, int]]:
    with docker_filter(NAMES, str(docker.server_address)) as address:
        yield address


@pytest.fixture(autouse=True)
def forgetful(docker: Docker) -> None:
    docker.asked.clear()


def send(address: tuple[str, int], data: bytes) -> list[int]:
    """Send bytes; return the status of each answer until the connection closes."""
    with socket.create_connection(address, timeout=15) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while block := connection.recv(65536):
                answer += block
        except ConnectionResetError:
            pass
    heads = answer.split(b"HTTP/1.")[1:]
    return [int(head.split(b" ")[1]) for head in heads]


def request(call: str) -> bytes:
    return f"{call} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("call", ALLOWED)
def test_what_the_gateway_needs_gets_through(
    address: tuple[str, int], docker: Docker, call: str
) -> None:
    assert send(address, request(call)) == [200]
    assert docker.asked == [call]


@pytest.mark.parametrize("call", REFUSED)
def test_nothing_else_does(address: tuple[str, int], docker: Docker, call: str) -> None:
    statuses = send(address, request(call))
    assert statuses
    assert set(statuses) <= {400, 403, 405}
    assert docker.asked == []


@pytest.mark.parametrize("data", UNDERHAND.values(), ids=UNDERHAND)
def test_underhand_requests_do_not(address: tuple[str, int], docker: Docker, data: bytes) -> None:
    assert 200 not in send(address, data)
    assert docker.asked == []


@pytest.mark.parametrize("data", SECOND_IN_LINE.values(), ids=SECOND_IN_LINE)
def test_nothing_hides_behind_an_allowed_request(
    address: tuple[str, int], docker: Docker, data: bytes
) -> None:
    assert send(address, data).count(200) == 1
    assert len(docker.asked) == 1
    assert "create" not in docker.asked[0]


def test_http_1_0_gets_what_is_allowed(address: tuple[str, int], docker: Docker) -> None:
    assert send(address, b"GET /_ping HTTP/1.0\r\n\r\n") == [200]
    assert docker.asked == ["GET /_ping"]


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len({*ALLOWED, *REFUSED}) + len(UNDERHAND) + len(SECOND_IN_LINE) >= 110


def test_without_names_it_does_not_start() -> None:
    done = subprocess.run(
        [shutil.which("haproxy") or "haproxy", "-c", "-f", CONFIG],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert done.returncode != 0
    assert "ENGINE_CONTAINERS is not set" in done.stderr
