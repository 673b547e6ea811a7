"""What a request may hold and a key may ask for, seen from the engine: it gets nothing else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from llm_backend.gateway.endpoints import GENERATE_PATH
from llm_backend.runtimes.ports import free_port
from tests import recording_engine
from tests.harness import ALL, GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    connected,
    error_of,
    fake,
    fakes,
    key_of,
    key_setting,
    log_of,
    post_bytes,
    recorded,
    recorder,
    shared_gateway,
)
from tests.integration.hostile import WRONG
from tests.unit.gateway.pictures import (
    BAD_INLINE,
    GOOD,
    PNG64,
    TOO_LARGE,
    addresses,
    chat_body,
    png,
)

pytestmark = [pytest.mark.engine, pytest.mark.anyio]

PROMISED_S = 0.05
LOAD = "/api/v1/inference/load"


def salted(root: Path) -> dict[str, Any]:
    """An engine of the kind vLLM: a program that takes its arguments and shows what reaches it."""
    python = root / "python"
    python.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        f'exec "{sys.executable}" "{recording_engine.__file__}" "$last"\n'
    )
    python.chmod(0o700)
    return {
        "runtimes": ["process"],
        "engine": {"kind": "vllm", "python": str(python)},
        "capabilities": ALL,
        "devices": ["cpu"],
    }


class Pictures:
    """A host of pictures, on this machine, that counts who comes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            self.asked.append(path)
            if path == "/moved.png":
                writer.write(b"HTTP/1.1 302 Found\r\nlocation: /x.png\r\ncontent-length: 0\r\n\r\n")
                return
            head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % len(png()) + png())


@asynccontextmanager
async def pictures(port: int = 0) -> AsyncIterator[Pictures]:
    host = Pictures()
    async with await asyncio.start_server(host.serve, "127.0.0.1", port) as server:
        host.port = server.sockets[0].getsockname()[1]
        yield host


@pytest.fixture(scope="module")
def allowed_port() -> int:
    return free_port("127.0.0.1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, allowed_port: int) -> Iterator[GatewayHome]:
    keys = [
        key_setting("alice", "infer"),
        key_setting("bob", "infer"),
        {**key_setting("minute", "infer"), "requests_per_minute": 3},
        {**key_setting("single", "infer"), "concurrency": 1},
    ]
    models = {
        "echo": recorder(),
        "salted": salted,
        **fake("slow", "--token-delay-s 0.05 --tokens 400"),
        **fakes(eye=""),
    }
    hosts = [f"127.0.0.1:{allowed_port}", "localhost"]
    images = {"allowed_hosts": hosts, "count": 10}
    with shared_gateway(tmp_path_factory, models, keys=keys, images=images) as home:
        yield home
        at_rest(home)


def headers_of(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(who)}"}


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=headers_of("alice")) as http:
        yield http


def posted(http: httpx2.Client, model: str, **fields: Any) -> httpx2.Response:
    return http.post(CHAT, json={"model": model, "messages": MESSAGES, **fields})


# What an engine never sees


@dataclass(frozen=True)
class Asked:
    """A request with pictures, and whether it gets to an engine."""

    fields: dict[str, Any]
    passes: bool = False


def inputs(port: int) -> dict[str, Asked]:
    """The catalogue of pictures, each in a standard part; `port` is that of the trap."""
    inline = {**BAD_INLINE, **TOO_LARGE, **addresses(port)}
    table = {name: Asked(chat_body(url)) for name, url in inline.items()}
    table |= {f"good: {name}": Asked(chat_body(url), passes=True) for name, url in GOOD.items()}
    return table | {
        "ten": Asked(chat_body(*[GOOD["PNG"]] * 10), passes=True),
        "eleven": Asked(chat_body(*[GOOD["PNG"]] * 11)),
        "a bad one among nine good ones": Asked(
            chat_body(*[GOOD["PNG"]] * 5, BAD_INLINE["SVG as PNG"], *[GOOD["PNG"]] * 4)
        ),
        "a name that is allowed, and leads to this machine": Asked(
            chat_body(f"http://localhost:{port}/x.png")
        ),
        "a host that is allowed, at another port": Asked(chat_body(f"http://127.0.0.1:{port}/x")),
    }


def as_part(asked: Asked) -> tuple[str, dict[str, Any]]:
    """A chat with the pictures as standard parts."""
    return CHAT, asked.fields


def as_field(asked: Asked) -> tuple[str, dict[str, Any]]:
    """A chat with the pictures in the field `images` of the message."""
    return CHAT, {"messages": [{**MESSAGES[0], "images": urls_of(asked)}]}


def as_text(asked: Asked) -> tuple[str, dict[str, Any]]:
    """The text API."""
    return GENERATE_PATH, {"prompt": "?", "images": urls_of(asked)}


def urls_of(asked: Asked) -> list[Any]:
    _, *parts = asked.fields["messages"][0]["content"]
    return [part["image_url"]["url"] for part in parts]


class Trap:
    """Listens where no picture may be fetched from, on every address of this machine."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.socket.setblocking(False)
        self.port = int(self.socket.getsockname()[1])

    @property
    def visits(self) -> int:
        """How many have come since the last look: a connection is there before it is accepted."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.accept()[0].close()
                count += 1
        return count


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    trap = Trap()
    with trap.socket:
        with socket.create_connection(("127.0.0.1", trap.port)):
            assert trap.visits == 1
        yield trap


@pytest.mark.feature("Images: bad input is a 400, and nobody is connected to")
@pytest.mark.parametrize("door", [as_part, as_field, as_text], ids=lambda door: door.__name__)
@pytest.mark.parametrize("name", list(inputs(1)))
def test_a_picture_is_answered_or_refused(
    home: GatewayHome, http: httpx2.Client, trap: Trap, name: str, door: Any
) -> None:
    asked = inputs(trap.port)[name]
    path, fields = door(asked)
    assert http.post(LOAD, json={"model": "eye"}, headers=home.admin).status_code == 200
    reached = home.events("eye").count("request")

    content = orjson.dumps({"model": "eye", "max_tokens": 1, **fields})
    response = http.post(path, content=content, headers={"content-type": "application/json"})

    if asked.passes:
        assert response.status_code == 200, response.text
    else:
        code = {400: "invalid_request", 413: "body_too_large"}[response.status_code]
        assert error_of(response, response.status_code, code)["message"]
    assert home.events("eye").count("request") == reached + asked.passes
    assert trap.visits == 0


def test_the_catalogue_has_more_than_sixty() -> None:
    table = inputs(1)
    assert len(table) >= 90
    assert sum(asked.passes for asked in table.values()) >= 8


def test_what_is_refused_is_refused_at_once(home: GatewayHome, http: httpx2.Client) -> None:
    """The catalogue of bad pictures and bad fields: each is a 400 or 413 within 50 ms."""
    bad = {name: asked.fields for name, asked in inputs(1).items() if not asked.passes} | WRONG
    took = []
    for name, fields in bad.items():
        body = orjson.dumps({"messages": MESSAGES, "model": "eye", **fields})
        headers = {"content-type": "application/json"}
        began = time.perf_counter()
        response = http.post(CHAT, content=body, headers=headers)
        took.append(time.perf_counter() - began)
        assert response.status_code in {400, 413}, (name, response.text)
    assert statistics.median(took) < PROMISED_S


@pytest.mark.parametrize("name", list(GOOD))
def test_good_pictures_reach_it_byte_for_byte(http: httpx2.Client, name: str) -> None:
    body = orjson.dumps({"model": "echo", **chat_body(GOOD[name])})
    reached, _ = recorded(
        http.post(CHAT, content=body, headers={"content-type": "application/json"})
    )
    assert reached == body


async def test_the_gateway_fetches_what_is_allowed_and_the_engine_gets_it_inline(
    http: httpx2.Client, allowed_port: int
) -> None:
    async with pictures(allowed_port) as host:
        here = f"http://127.0.0.1:{allowed_port}"
        body = {"model": "echo", **chat_body(f"{here}/x.png", GOOD["GIF"])}
        reached, _ = recorded(await asyncio.to_thread(http.post, CHAT, json=body))
        assert host.asked == ["/x.png"]
        inlined = chat_body(f"data:image/png;base64,{PNG64}", GOOD["GIF"])
        assert orjson.loads(reached) == {"model": "echo", **inlined}

        moved = {"model": "echo", **chat_body(f"{here}/moved.png")}
        error = error_of(
            await asyncio.to_thread(http.post, CHAT, json=moved), 400, "invalid_request"
        )
        assert "answered 302" in error["message"]
        assert host.asked == ["/x.png", "/moved.png"]


# The fields that no API has


@pytest.mark.feature("Images: the fields image and images become standard parts")
async def test_a_picture_in_a_field_of_the_message_gets_to_the_engine_as_a_part(
    http: httpx2.Client, allowed_port: int
) -> None:
    text = "![not this one](http://127.0.0.1:1/x.png)"
    async with pictures(allowed_port) as host:
        link = f"![a cat](http://127.0.0.1:{allowed_port}/x.png)"
        message = {"role": "user", "content": text, "image": link, "images": [GOOD["GIF"], PNG64]}
        body = {"model": "echo", "messages": [message]}
        reached, _ = recorded(await asyncio.to_thread(http.post, CHAT, json=body))
        assert host.asked == ["/x.png"]
    given = chat_body(GOOD["PNG"], GOOD["GIF"], GOOD["PNG"])
    given["messages"][0]["content"][0]["text"] = text
    assert orjson.loads(reached) == {"model": "echo", **given}


def test_other_routes_keep_their_fields(http: httpx2.Client) -> None:
    body = {"model": "echo", "messages": [{**MESSAGES[0], "image": "a cat"}]}
    assert orjson.loads(recorded(http.post("/v1/messages", json=body))[0]) == body


# Keys


def salt_of(http: httpx2.Client, who: str, **fields: Any) -> str:
    body = {"model": "salted", "messages": MESSAGES, **fields}
    reached, _ = recorded(http.post(CHAT, json=body, headers=headers_of(who)))
    return str(orjson.loads(reached)["cache_salt"])


def test_two_keys_have_two_salts(http: httpx2.Client) -> None:
    alice, bob = salt_of(http, "alice"), salt_of(http, "bob")
    assert alice == salt_of(http, "alice")
    assert len({alice, bob, salt_of(http, "alice", cache_salt="own")}) == 3
    assert salt_of(http, "bob", cache_salt=alice) != alice
    reached, _ = recorded(posted(http, "echo", cache_salt="own"))
    assert orjson.loads(reached)["cache_salt"] == "own", "other engines are left alone"


def test_a_key_has_its_share_of_a_minute(http: httpx2.Client) -> None:
    answers = [
        http.post(CHAT, json={"model": "echo", "n": n}, headers=headers_of("minute"))
        for n in range(1, 5)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
    error = error_of(answers[-1], 429, "rate_limit_exceeded")
    assert "'minute' may make 3 requests a minute" in error["message"]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    other = posted(http, "echo")
    assert other.status_code == 200
    assert "x-ratelimit-limit-requests" not in other.headers


def test_a_place_is_free_again_when_its_client_leaves(
    home: GatewayHome, http: httpx2.Client
) -> None:
    def single() -> httpx2.Response:
        body = {"model": "slow", "messages": MESSAGES, "max_tokens": 1}
        return http.post(CHAT, json=body, headers=headers_of("single"))

    assert home.load("slow").status_code == 200
    body = orjson.dumps({"model": "slow", "messages": MESSAGES, "stream": True})
    fields = [f"{name}: {value}" for name, value in headers_of("single").items()]
    request = post_bytes(CHAT, body, "host: localhost", "content-type: application/json", *fields)
    with connected(home) as connection:
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 200"
        error = error_of(single(), 429, "rate_limit_exceeded")
        assert "has 1 requests under way; at most 1" in error["message"]
    eventually(lambda: single().status_code == 200, within_s=5)


def test_pictures_are_in_no_log(home: GatewayHome, http: httpx2.Client) -> None:
    canary = base64.b64encode(png() + b"canary").decode()
    posted(http, "echo", **chat_body(f"data:image/png;base64,{canary}"))
    posted(http, "echo", **chat_body("http://canary.example/x.png"))
    log = log_of(home)
    assert canary not in log
    assert "canary" not in log
