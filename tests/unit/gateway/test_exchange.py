"""One request on the raw ASGI interface: bodies, answers, and clients that leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from llm_backend.errors import BodyTooLarge, EngineGone, InvalidKey, Overloaded
from llm_backend.gateway.exchange import CONNECTION, EVENT_STREAM, ClientGone, Exchange

pytestmark = pytest.mark.anyio


class Client:
    """The other side: sends these pieces of a body, remembers what comes back, may leave."""

    def __init__(self, *pieces: bytes) -> None:
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        self.sent: list[dict[str, Any]] = []
        self._pieces = list(pieces)
        scope = {"headers": [(b"a", b"1"), (b"a", b"2")], "extensions": {CONNECTION: self}}
        self.at_once: list[tuple[int, dict[bytes, bytes], bytes]] | None = None
        self.whole: bytes | None = None
        self.exchange = Exchange(scope, self.receive, self.send, lambda _: "id-1")

    def body(self) -> bytes | None:
        return self.whole

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        if self.at_once is None:
            return False
        self.at_once.append((status, dict(headers), body))
        return True

    async def receive(self) -> dict[str, Any]:
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def text(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


# Reading


def test_the_first_of_two_headers_counts() -> None:
    assert Client().exchange.headers == {b"a": b"1"}


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"abc", b"def"], [b"", b"abcdef", b""]])
async def test_a_body_comes_in_any_pieces(pieces: list[bytes]) -> None:
    assert await Client(*pieces).exchange.body(6) == b"abcdef"
    with pytest.raises(BodyTooLarge):
        await Client(*pieces).exchange.body(5)


async def test_a_body_that_is_here_already() -> None:
    client = Client()
    client.whole = b"abcdef"
    assert await client.exchange.body(6) == b"abcdef"


async def test_a_body_that_is_here_and_too_large() -> None:
    client = Client(b"abcdef")
    client.whole = b"abcdef"
    with pytest.raises(BodyTooLarge):
        await client.exchange.body(5)


async def test_a_client_that_leaves_amid_its_body() -> None:
    client = Client(b"abc", b"def")
    client._pieces.pop()

    async def half() -> dict[str, Any]:
        message = await client.receive()
        return {**message, "more_body": True}

    exchange = Exchange(
        {"headers": [], "extensions": {CONNECTION: client}}, half, client.send, lambda _: "id"
    )
    with pytest.raises(ClientGone):
        await exchange.body(10)


# Answering


async def test_a_whole_answer() -> None:
    client = Client()
    client.exchange.extra.append((b"x-cache", b"hit"))
    await client.exchange.answer(200, b"application/json", b"{}")

    assert (client.status, client.text) == (200, b"{}")
    assert client.headers[b"content-length"] == b"2"
    assert client.headers[b"x-request-id"] == b"id-1"
    assert client.headers[b"x-cache"] == b"hit"
    assert client.sent[-1]["more_body"] is False


async def test_an_error_as_the_answer() -> None:
    client = Client()
    await client.exchange.fail(Overloaded("Full.", retry_after_s=1000))

    assert client.status == 503
    assert client.headers[b"retry-after"] == b"120"
    assert client.headers[b"x-should-retry"] == b"true"
    assert orjson.loads(client.text)["error"]["code"] == "server_is_overloaded"


async def test_an_error_in_the_words_of_the_route() -> None:
    client = Client()
    client.exchange.dialect = "anthropic"
    await client.exchange.fail(InvalidKey("Which key?"))

    assert client.status == 401
    assert client.headers[b"x-should-retry"] == b"false"
    assert orjson.loads(client.text)["error"]["type"] == "authentication_error"


async def test_an_error_amid_a_stream_is_its_last_event() -> None:
    client = Client()
    client.exchange.stream = "chat"
    await client.exchange.start(200, EVENT_STREAM)
    await client.exchange.write(b": waiting\n\n")
    await client.exchange.fail(EngineGone("It left."))
    await client.exchange.fail(EngineGone("It left again."))

    assert client.status == 200
    assert client.text.count(b"data: ") == 1
    assert b"It left." in client.text
    assert b"[DONE]" not in client.text
    assert [m["more_body"] for m in client.sent[1:]] == [True, False]


async def test_an_error_amid_another_answer_never_makes_it_look_whole() -> None:
    client = Client()
    await client.exchange.start(200, b"text/plain")
    with pytest.raises(EngineGone):
        await client.exchange.fail(EngineGone("It left."))
    assert len(client.sent) == 1


async def test_nothing_follows_a_whole_answer() -> None:
    client = Client()
    await client.exchange.answer(200, b"application/json", b"{}")
    await client.exchange.fail(EngineGone("Too late."))
    assert client.text == b"{}"


async def test_another_application_answers_under_the_same_id() -> None:
    client = Client()
    send = client.exchange.tagging(client.send)
    await send({"type": "http.response.start", "status": 404, "headers": [(b"a", b"b")]})
    assert not client.exchange.finished
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b""})

    assert client.headers == {b"a": b"b", b"x-request-id": b"id-1"}
    assert (client.exchange.status, client.exchange.finished) == (404, True)


# Leaving


async def work(client: Client, block: Callable[[], Any]) -> str:
    """Run a block while the client is watched; say how it ended."""
    try:
        with client.exchange.client_watched():
            await block()
    except ClientGone:
        return "client gone"
    except TimeoutError:
        return "timeout"
    return "done"


async def forever() -> None:
    await asyncio.Event().wait()


async def started(client: Client, block: Callable[[], Any]) -> asyncio.Task[str]:
    task = asyncio.create_task(work(client, block))
    await asyncio.sleep(0)  # it runs until it has to wait
    assert client.on_lost is not None
    return task


async def test_leaving_breaks_the_work_off() -> None:
    client = Client()
    task = await started(client, forever)
    client.leave()
    assert await task == "client gone"
    assert task.cancelling() == 0
    assert client.on_lost is None


async def test_a_client_that_has_left_already() -> None:
    client = Client()
    client.leave()
    assert await work(client, forever) == "client gone"


async def test_work_that_is_done_is_watched_no_more() -> None:
    client = Client()
    task = await started(client, lambda: asyncio.sleep(0))
    assert await task == "done"
    client.leave()
    assert task.cancelling() == 0


async def test_leaving_after_the_whole_answer_breaks_nothing_off() -> None:
    client, go_on = Client(), asyncio.Event()

    async def block() -> None:
        await client.exchange.answer(200, b"application/json", b"{}")
        await go_on.wait()

    task = await started(client, block)
    assert client.exchange.finished
    client.leave()
    go_on.set()
    assert await task == "done"


async def test_a_cancellation_from_outside_goes_on() -> None:
    client = Client()
    task = await started(client, forever)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.on_lost is None


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_both_at_once_is_a_cancellation(leaves_first: bool) -> None:
    client = Client()
    task = await started(client, forever)
    steps = [client.leave, task.cancel]
    for step in steps if leaves_first else reversed(steps):
        step()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_leaving_when_the_work_has_just_come_to_an_end() -> None:
    client, end = Client(), asyncio.Event()
    task = await started(client, end.wait)
    end.set()  # the task is to run, and has not yet
    client.leave()
    assert await task == "client gone"
    assert task.cancelling() == 0


async def test_leaving_when_the_work_has_just_failed() -> None:
    client = Client()
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = await started(client, lambda: outcome)
    outcome.set_exception(EngineGone("It left."))
    client.leave()
    assert await task == "client gone"


async def test_leaving_when_a_deadline_has_just_passed() -> None:
    client = Client()
    reached = asyncio.Event()

    async def block() -> None:
        try:
            async with asyncio.timeout(0):
                await forever()
        finally:
            reached.set()

    task = await started(client, block)
    client.leave()
    assert await task == "client gone"
    assert reached.is_set()


async def test_a_deadline_within_is_not_taken_for_leaving() -> None:
    async def block() -> None:
        async with asyncio.timeout(0.01):
            await forever()

    assert await work(Client(), block) == "timeout"


# What the time went by with


async def test_a_plain_answer_tells_its_stages() -> None:
    client = Client(b"x")
    client.exchange.asked_at = asyncio.get_running_loop().time() - 2
    client.exchange.stages = {"queue": 1.25, "load": 10.0}
    await client.exchange.answer(200, b"application/json", b"{}")

    told = client.headers[b"server-timing"].split(b", ")
    assert told[:2] == [b"queue;dur=1250.0", b"load;dur=10000.0"]
    assert told[2].startswith(b"engine;dur=2")


async def test_an_answer_without_an_engine_has_no_stages() -> None:
    client = Client(b"x")
    await client.exchange.answer(200, b"application/json", b"{}")

    assert b"server-timing" not in client.headers


@pytest.mark.parametrize("waited", [True, False])
async def test_a_stream_that_waited_ends_in_a_comment_of_its_stages(waited: bool) -> None:
    client = Client(b"x")
    client.exchange.asked_at = asyncio.get_running_loop().time()
    client.exchange.stages = {"queue": 1.25} if waited else {}
    await client.exchange.start(200, EVENT_STREAM)
    await client.exchange.close(b"data: [DONE]\n\n")

    assert b"server-timing" not in client.headers
    comment = b": timing: queue;dur=1250.0, engine;dur=0" if waited else b""
    assert client.text.startswith(b"data: [DONE]\n\n" + comment)
    assert client.text.endswith(b"\n\n")
    assert client.text.count(b"\n\n") == 1 + waited
