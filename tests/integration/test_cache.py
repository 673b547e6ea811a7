"""The response cache as clients see it: x-cache, one call for many, replays, whose answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest

from tests.harness import PATIENCE_S, GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    fake,
    fakes,
    key_of,
    key_setting,
    post_bytes,
    shared_gateway,
)

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.feature("response cache")]

ALICE = {"authorization": f"Bearer {key_of('alice')}"}
BOB = {"authorization": f"Bearer {key_of('bob')}"}
MANY = 1000
TOO_LONG = [{"role": "user", "content": "word " * 100}]
"""For the model `small`; the others take it."""
ANTHROPIC = "/v1/messages"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    keys = [key_setting("alice", "infer"), key_setting("bob", "infer")]
    models = {
        **fakes(a="", b="", cut="--cut-stream", abort="--abort-finish", small="--max-model-len 20"),
        **fake("slow", "--token-delay-s 0.5 --tokens 8"),
        **fake("long", "--tokens 5000"),
    }
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=ALICE) as http:
        http.post("/api/v1/cache/clear", json={}, headers=home.admin).raise_for_status()
        yield http
    at_rest(home)


def ask(model: str = "a", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "temperature": 0, **fields}


def cached(http: httpx2.Client, body: dict[str, Any], path: str = CHAT, **headers: str) -> str:
    return str(http.post(path, json=body, headers=headers).headers["x-cache"])


def asked(home: GatewayHome, model: str, path: str = CHAT) -> int:
    return sum(x["event"] == "request" and x["path"] == path for x in home.journal(model))


def entries(http: httpx2.Client) -> int:
    return int(http.get("/health").json()["cache"]["entries"])


# Hits


def test_the_second_answer_is_the_first(home: GatewayHome, http: httpx2.Client) -> None:
    before = asked(home, "a")
    first, second = (http.post(CHAT, json=ask()) for _ in range(2))

    assert [r.headers["x-cache"] for r in (first, second)] == ["miss", "hit"]
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert asked(home, "a") == before + 1


def test_a_stream_is_replayed_as_a_stream(http: httpx2.Client) -> None:
    streams = [http.post(CHAT, json=ask(stream=True)) for _ in range(2)]

    assert [r.headers["x-cache"] for r in streams] == ["miss", "hit"]
    assert streams[0].content == streams[1].content
    assert streams[1].headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streams[1].text.endswith("data: [DONE]\n\n")


def test_a_stream_is_not_told_as_one_object(http: httpx2.Client) -> None:
    assert [cached(http, ask(stream=s)) for s in (True, False, False)] == ["miss", "miss", "hit"]


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"temperature": 0}, "hit"),
        ({"temperature": 1, "seed": 7}, "hit"),
        ({"temperature": 1}, "bypass"),
        ({"temperature": None}, "bypass"),
        ({"temperature": 0.0001}, "bypass"),
    ],
)
def test_what_is_sampled_is_not_kept(
    http: httpx2.Client, fields: dict[str, Any], result: str
) -> None:
    cached(http, ask(**fields))
    assert cached(http, ask(**fields)) == result


def test_every_field_counts(http: httpx2.Client) -> None:
    bodies = [
        ask(),
        ask(max_tokens=3),
        ask(messages=[*MESSAGES, *MESSAGES]),
        ask(unknown={"a": 1}),
        ask(unknown={"a": True}),
        ask(unknown={"a": "1"}),
        ask(model="b"),
    ]
    assert [cached(http, body) for body in bodies] == ["miss"] * len(bodies)
    assert cached(http, dict(reversed(ask().items()))) == "hit", "the order does not"


def test_cache_control(home: GatewayHome, http: httpx2.Client) -> None:
    headers = {"No-Store": "bypass", "no-cache": "miss", "max-age=0": "hit", "": "hit"}
    cached(http, ask())
    seen = {name: cached(http, ask(), **{"cache-control": name}) for name in headers}
    assert seen == headers

    body = ask(max_tokens=2)
    assert cached(http, body, **{"cache-control": "no-store"}) == "bypass"
    assert cached(http, body) == "miss", "no-store leaves nothing"
    before = asked(home, "a")
    assert cached(http, body, **{"cache-control": "no-cache"}) == "miss"
    assert asked(home, "a") == before + 1, "no-cache asks again"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["cut", "abort", "small"])
def test_what_is_no_answer_is_not_kept(
    home: GatewayHome, http: httpx2.Client, model: str, stream: bool
) -> None:
    before = asked(home, model)
    for _ in range(2):
        http.post(CHAT, json=ask(model, stream=stream, messages=TOO_LONG))
    broken = not (model == "cut" and not stream)
    assert entries(http) == (0 if broken else 1)
    assert asked(home, model) == before + (2 if broken else 1)


def test_a_hit_never_switches(home: GatewayHome, http: httpx2.Client) -> None:
    cached(http, ask(model="a"))
    assert home.load("b").status_code == 200
    starts = home.starts("a")

    assert cached(http, ask(model="a")) == "hit"
    assert cached(http, ask(model="a", stream=True)) == "hit"

    assert (home.state("a"), home.state("b")) == ("stopped", "awake")
    assert home.starts("a") == starts


def test_nobody_gets_the_answers_of_another_key(http: httpx2.Client) -> None:
    assert [cached(http, ask(), **who) for who in (ALICE, BOB, BOB)] == ["miss", "miss", "hit"]


def test_answers_can_be_forgotten(home: GatewayHome, http: httpx2.Client) -> None:
    for model in ("a", "b"):
        cached(http, ask(model=model))
    clear = "/api/v1/cache/clear"

    assert http.post(clear, json={"model": "a"}, headers=home.admin).json() == {"cleared": 1}
    assert cached(http, ask(model="b")) == "hit"
    assert cached(http, ask(model="a")) == "miss"
    assert http.post(clear, json={}, headers=home.admin).json() == {"cleared": 2}
    assert entries(http) == 0


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize"])
def test_what_has_one_answer_is_kept(home: GatewayHome, http: httpx2.Client, path: str) -> None:
    home.load("a")
    body = {"model": "a", "input": "x", "prompt": "x"}
    assert [cached(http, body, path) for _ in range(2)] == ["miss", "hit"]


def test_responses_are_more_than_their_body(http: httpx2.Client) -> None:
    body = {"model": "a", "input": "x", "temperature": 0}
    assert [cached(http, body, "/v1/responses") for _ in range(2)] == ["bypass", "bypass"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_body_too_deep_for_a_key_is_refused(http: httpx2.Client, stream: bool) -> None:
    body = orjson.dumps(ask(stream=stream))[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}"
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


# The SDKs read what was kept as an object


async def test_openai_reads_a_replay(home: GatewayHome, http: httpx2.Client) -> None:
    options: Any = {"model": "a", "messages": MESSAGES, "temperature": 0}
    before = asked(home, "a")
    async with openai.AsyncOpenAI(base_url=home.url + "/v1", api_key=key_of("alice")) as client:
        whole = await client.chat.completions.create(**options)
        raw = await client.chat.completions.with_raw_response.create(stream=True, **options)
        assert raw.headers["x-cache"] == "hit"
        chunks = [chunk async for chunk in raw.parse()]
        usage = {"include_usage": True}
        async with client.chat.completions.stream(stream_options=usage, **options) as stream:
            final = await stream.get_final_completion()

    assert "".join(c.choices[0].delta.content or "" for c in chunks) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage == whole.usage
    assert asked(home, "a") == before + 1


async def test_anthropic_reads_a_replay(home: GatewayHome, http: httpx2.Client) -> None:
    options: Any = {"model": "a", "messages": MESSAGES, "max_tokens": 8}
    fixed = {"temperature": 0}
    before = asked(home, "a", ANTHROPIC)
    async with anthropic.AsyncAnthropic(base_url=home.url, api_key=key_of("alice")) as client:
        whole = await client.messages.create(extra_body=fixed, **options)
        async with client.messages.stream(extra_body=fixed, **options) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()

    assert asked(home, "a", ANTHROPIC) == before + 1
    words = "".join(b.text for b in whole.content if b.type == "text")
    assert text == words == "".join(b.text for b in final.content if b.type == "text")
    assert (final.stop_reason, final.usage.output_tokens) == (
        whole.stop_reason,
        whole.usage.output_tokens,
    )


# Many at once


async def connect(home: GatewayHome) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = httpx2.URL(home.url)
    return await asyncio.open_connection(url.host, url.port, limit=2**24)


def request(body: dict[str, Any]) -> bytes:
    who = f"authorization: {ALICE['authorization']}"
    raw = orjson.dumps(body)
    return post_bytes(CHAT, raw, "host: localhost", "content-type: application/json", who)


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of an answer. A stream's comments are no part of it."""
    async with asyncio.timeout(PATIENCE_S):
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    if b"text/event-stream" in head.lower():
        body = unchunked(body)
        body = b"".join(e + b"\n\n" for e in body.split(b"\n\n") if e and e[:1] != b":")
    return head, body


def unchunked(raw: bytes) -> bytes:
    pieces, at = [], 0
    while True:
        start = raw.index(b"\r\n", at) + 2
        if not (length := int(raw[at:start], 16)):
            return b"".join(pieces)
        pieces.append(raw[start : start + length])
        at = start + length + 2


async def journal_has(home: GatewayHome, model: str, requests: int) -> None:
    await asyncio.to_thread(eventually, lambda: asked(home, model) >= requests)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_a_thousand_equal_requests_are_one_call(
    home: GatewayHome, http: httpx2.Client, stream: bool
) -> None:
    home.load("slow")
    before = asked(home, "slow")
    body = ask(model="slow", stream=stream)
    connections = await asyncio.gather(*(connect(home) for _ in range(MANY)))
    for _, writer in connections:
        writer.write(request(body))

    answers = await asyncio.gather(*(answered(reader) for reader, _ in connections))
    for _, writer in connections:
        writer.close()

    assert {head[:12] for head, _ in answers} == {b"HTTP/1.1 200"}
    assert len({body for _, body in answers}) == 1
    assert asked(home, "slow") == before + 1
    told = [b"x-cache: hit" in head for head, _ in answers if b"x-cache" in head]
    assert told.count(False) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_leader_leaves_another_one_leads(
    home: GatewayHome, http: httpx2.Client, stream: bool
) -> None:
    home.load("slow")
    lines = len(home.journal("slow"))
    before = asked(home, "slow")
    body = ask(model="slow", stream=stream)
    connections = [await connect(home) for _ in range(50)]
    for number in range(2):
        connections[number][1].write(request(body))
        if number == 0:
            await journal_has(home, "slow", before + 1)
    for _, writer in connections[2:]:
        writer.write(request(body))
    await asyncio.sleep(0.2)  # the others join; whoever comes later would find the same
    connections[0][1].transport.abort()
    await journal_has(home, "slow", before + 2)
    connections[1][1].transport.abort()

    answers = await asyncio.gather(*(answered(reader) for reader, _ in connections[2:]))
    for _, writer in connections:
        writer.close()

    assert {head[:12] for head, _ in answers} == {b"HTTP/1.1 200"}
    assert len({body for _, body in answers}) == 1

    def since() -> list[str]:
        return [x["event"] for x in home.journal("slow")[lines:] if x.get("path") == CHAT]

    # The engine writes down behind an answer that it is done.
    await asyncio.to_thread(eventually, lambda: since().count("done") == 1)
    assert since().count("request") - since().count("gone") == 1
    assert since().count("request") <= 3


async def test_what_fails_fails_for_all(home: GatewayHome, http: httpx2.Client) -> None:
    home.load("small")
    connections = [await connect(home) for _ in range(20)]
    for _, writer in connections:
        writer.write(request(ask("small", messages=TOO_LONG)))
    answers = await asyncio.gather(*(answered(reader) for reader, _ in connections))
    for _, writer in connections:
        writer.close()
    assert {head[:12] for head, _ in answers} == {b"HTTP/1.1 400"}
    assert {orjson.loads(body)["error"]["code"] for _, body in answers} == {
        "context_length_exceeded"
    }


async def test_replays_leave_the_loop_to_others(home: GatewayHome, http: httpx2.Client) -> None:
    home.load("long")  # who waits for a load is sent comments, and they are not kept
    body = ask(model="long", stream=True, max_tokens=5000)
    whole = http.post(CHAT, json=body).text
    assert cached(http, ask(model="long", max_tokens=5000, stream=True)) == "hit"
    assert len(whole) > 500_000

    connections = await asyncio.gather(*(connect(home) for _ in range(200)))
    for _, writer in connections:
        writer.write(request(body))
    staying, leaving = connections[:20], connections[20:]
    reading = [asyncio.create_task(answered(reader)) for reader, _ in staying]
    longest = 0.0
    for _, writer in leaving:
        began = time.monotonic()
        assert (await asyncio.to_thread(http.get, "/health/live")).status_code == 200
        longest = max(longest, time.monotonic() - began)
        writer.transport.abort()

    answers = await asyncio.gather(*reading)
    for _, writer in staying:
        writer.close()
    # Compared by a word: to show how texts of half a million bytes differ takes minutes.
    strange = [answer[-500:] for _, answer in answers if answer != whole.encode()]
    assert strange == []
    assert longest < 2, "on a busy machine; a replay that yields to nobody takes for ever"


def test_the_memory_forgets_in_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        shared_gateway(tmp_path_factory, fakes(a=""), cache={"ttl_s": 1, "mode": "all"}) as home,
        client_of(home) as http,
    ):
        body = ask(temperature=1)
        assert cached(http, body) == "miss"
        assert cached(http, body) == "hit", "the mode `all` keeps sampled answers too"
        eventually(lambda: cached(http, body) == "miss")
