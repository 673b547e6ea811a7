"""The gateway behind a real nginx, with the file that deploy/nginx ships."""

from __future__ import annotations

import base64
import itertools
import re
import ssl
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_backend.runtimes.ports import free_port
from tests.harness import PATIENCE_S, REPOSITORY, GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    error_of,
    fakes,
    key_of,
    key_setting,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("behind nginx")]

SHIPPED = REPOSITORY / "deploy/nginx/llm-backend.conf"
NAME = "llm.example.org"
MIB = 1024 * 1024
KEYLESS = "invalid_api_key"
SNI = {"sni_hostname": NAME}
AROUND = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/llm-backend.conf;
}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = fakes(slow="--token-delay-s 0.05 --tokens 400", late="--load-s 1.5", quick="")
    settings = {
        "server": {"port": 0, "published_host": NAME, "allowed_hosts": [NAME]},
        "keys": [key_setting("alice", "infer")],
    }
    with shared_gateway(tmp_path_factory, models, **settings) as home:
        yield home


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own making for NAME, its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    where = ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(["openssl", "req", *made, *about, *where], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def http(
    home: GatewayHome, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """A client of nginx, which trusts that certificate alone."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port("127.0.0.1")
    (folder / "llm-backend.conf").write_text(adapted(home, certificate, port))
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
    program = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with (folder / "log").open("wb") as log:
        nginx = subprocess.Popen(program, stderr=log, stdin=subprocess.DEVNULL)
    trusted = ssl.create_default_context(cafile=str(certificate))
    url = f"https://127.0.0.1:{port}"
    headers = {"host": NAME, "authorization": f"Bearer {key_of('alice')}"}
    try:
        with httpx2.Client(
            base_url=url, verify=trusted, trust_env=False, timeout=PATIENCE_S, headers=headers
        ) as client:
            eventually(lambda: answers(nginx, client, folder / "log"))
            yield client
    finally:
        nginx.terminate()
        nginx.wait(PATIENCE_S)


def adapted(home: GatewayHome, certificate: Path, port: int) -> str:
    """The shipped file with what a person is told to change, and ports of this test."""
    text = SHIPPED.read_text()
    changes = {
        r"127\.0\.0\.1:7000": home.url.removeprefix("http://"),
        r"listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        r"\n *listen \[::\]:443[^\n]*": "",
        r"/etc/ssl/certs/LLM\.EXAMPLE\.ORG\.pem": str(certificate),
        r"/etc/ssl/private/LLM\.EXAMPLE\.ORG\.key": str(certificate.with_suffix(".key")),
        r"server_name LLM\.EXAMPLE\.ORG": f"server_name {NAME}",
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    return text


def answers(nginx: subprocess.Popen[bytes], client: httpx2.Client, log: Path) -> bool:
    assert nginx.poll() is None, log.read_text()
    try:
        return client.get("/health/live", extensions=SNI).status_code == 200
    except httpx2.ConnectError:
        return False


def post(client: httpx2.Client, body: Any, **headers: str) -> httpx2.Response:
    return client.post(CHAT, json=body, headers=headers, extensions=SNI)


def streamed(client: httpx2.Client, model: str) -> Any:
    body = {"model": model, "messages": MESSAGES, "stream": True, "max_tokens": 400}
    return client.stream("POST", CHAT, json=body, extensions=SNI)


def test_a_stream_comes_in_pieces_and_a_departure_reaches_the_engine(
    home: GatewayHome, http: httpx2.Client
) -> None:
    with streamed(http, "slow") as response:
        assert response.status_code == 200
        chunks = (line for line in response.iter_lines() if line.startswith("data:"))
        assert len(list(itertools.islice(chunks, 3))) == 3
        # 400 tokens take 20 s: what came of them did not wait for the end.
        assert CHAT not in [x.get("path") for x in home.journal("slow") if x["event"] == "done"]

    eventually(lambda: "gone" in home.events("slow"), within_s=10)
    at_rest(home)


def test_who_waits_for_a_model_sees_it(http: httpx2.Client) -> None:
    with streamed(http, "late") as response:
        first = next(line for line in response.iter_lines() if line)

    assert first.startswith(": ")
    assert "late" in first


def test_a_large_picture_passes(http: httpx2.Client) -> None:
    url = "data:image/png;base64," + base64.b64encode(png_of(2250)).decode()
    assert len(url) > 19 * MIB
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = post(http, {"model": "quick", "messages": [{"role": "user", "content": parts}]})

    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]


def test_too_large_a_request_gets_the_gateways_own_error(http: httpx2.Client) -> None:
    long = {"model": "quick", "messages": [{"role": "user", "content": "x" * (32 * MIB)}]}

    error_of(post(http, long), 413, "body_too_large")


def test_the_name_that_was_asked_for_is_what_the_gateway_checks(http: httpx2.Client) -> None:
    body = {"model": "quick", "messages": MESSAGES}

    assert post(http, body).status_code == 200
    assert post(http, body, host=f"{NAME}:8443").status_code == 200
    refused = post(http, body, host="elsewhere.example")
    assert refused.json()["error"]["code"] == "host_not_allowed"


def test_nobody_gets_in_without_a_key(http: httpx2.Client) -> None:
    error_of(post(http, {"model": "quick", "messages": MESSAGES}, authorization=""), 401, KEYLESS)


def test_figures_are_not_for_everybody(home: GatewayHome, http: httpx2.Client) -> None:
    assert http.get("/metrics", extensions=SNI).status_code == 403
    assert home.get("/metrics", headers=home.admin).status_code == 200


def png_of(side: int) -> bytes:
    """A black picture that is not compressed: 3 bytes a pixel."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(b"\0" * (side * (3 * side + 1)), level=0)
    parts = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
