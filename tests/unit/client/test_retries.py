"""What is sent again, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend import (
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    LLMClient,
    Overloaded,
    RateLimited,
    ServiceError,
)
from llm_backend.client.failures import Failure
from llm_backend.client.retries import Retries

from .server import Reply, Server, refusal

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"
CUT = Reply(0, after="cut")


@given(tries=st.integers(1, 50))
def test_the_wait_doubles_up_to_a_limit_and_half_of_it_is_chance(tries: int) -> None:
    failure = Failure(Overloaded("full"), repeatable=True)
    wait_s = Retries(limit=50).wait_s(failure, tries)
    longest = min(8.0, 0.5 * 2 ** (tries - 1))
    assert wait_s is not None
    assert longest / 2 <= wait_s <= longest


@given(asked=st.floats(0, 1000), tries=st.integers(1, 5))
def test_the_server_says_how_long_unless_it_is_too_long(asked: float, tries: int) -> None:
    failure = Failure(Overloaded("full", retry_after_s=asked), repeatable=True)
    expected = asked if asked <= 120 and tries <= 3 else None
    assert Retries(limit=3).wait_s(failure, tries) == expected


async def test_two_refusals_are_survived(
    server: Server, client: LLMClient, waits: list[float]
) -> None:
    server.script(CHAT, refusal(503), refusal(500))
    assert await client.generate("Hi") == "Two and two make four."
    assert [request.body for request in server.seen] == [server.seen[0].body] * 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


async def test_the_third_is_raised(server: Server, client: LLMClient, waits: list[float]) -> None:
    server.script(CHAT, refusal(503), refusal(503), refusal(503, "server_is_overloaded", "full"))
    with pytest.raises(Overloaded, match="full") as caught:
        await client.generate("Hi")
    assert caught.value.__notes__ == ["Tried 3 times."]
    assert len(waits) == 2


async def test_retry_after_is_respected(
    server: Server, client: LLMClient, waits: list[float]
) -> None:
    server.script(CHAT, refusal(429, retry_after="7"))
    assert await client.generate("Hi") == "Two and two make four."
    assert waits == [7.0]


@pytest.mark.parametrize("seconds", ["121", "19.99"])
async def test_a_wait_that_is_too_long_is_left_to_the_caller(
    server: Server, client: LLMClient, waits: list[float], seconds: str
) -> None:
    # 121 s is above what anybody waits; 19.99 s would end after the deadline of this client.
    server.script(CHAT, refusal(429, retry_after="0.1"), refusal(429, retry_after=seconds))
    client = LLMClient(server.url, timeout_s=19.5) if seconds == "19.99" else client
    with pytest.raises(RateLimited) as caught:
        await client.generate("Hi")
    assert caught.value.retry_after_s == float(seconds)
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413])
async def test_what_the_caller_must_mend_is_not_repeated(
    server: Server, client: LLMClient, status: int
) -> None:
    server.script(CHAT, refusal(status))
    with pytest.raises(Exception, match="no"):
        await client.generate("Hi")
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
async def test_what_waiting_mends_is_repeated(
    server: Server, client: LLMClient, status: int
) -> None:
    server.script(CHAT, refusal(status))
    assert await client.generate("Hi") == "Two and two make four."
    assert len(server.seen) == 2


async def test_the_server_may_forbid_it(server: Server, client: LLMClient) -> None:
    server.script(CHAT, refusal(503, "engine_start_failed", x_should_retry="false"))
    with pytest.raises(ServiceError):
        await client.generate("Hi")
    assert len(server.seen) == 1


async def test_the_server_may_ask_for_it(server: Server, client: LLMClient) -> None:
    server.script(CHAT, refusal(409, x_should_retry="true"))
    assert await client.generate("Hi") == "Two and two make four."
    server.script(CHAT, refusal(409))
    with pytest.raises(Conflict):
        await client.generate("Hi")


async def test_a_connection_that_cannot_be_made_is_tried_again(
    refused: str, waits: list[float]
) -> None:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    with pytest.raises(ConnectionFailed) as caught:
        await LLMClient(refused, sleep=sleep).chat("Hi")
    assert len(waits) == 2
    assert caught.value.__notes__ == ["Tried 3 times."]


@pytest.mark.parametrize(
    "answer", [CUT, Reply(200, (b'{"choices"',), after="cut")], ids=["at once", "in the body"]
)
async def test_a_post_that_was_received_is_not_repeated(
    server: Server, client: LLMClient, answer: Reply
) -> None:
    server.script(CHAT, answer)
    with pytest.raises(ConnectionFailed, match="gave no answer"):
        await client.chat("Hi")
    assert len(server.seen) == 1


async def test_a_get_that_was_received_is(server: Server, client: LLMClient) -> None:
    server.script("GET /v1/models", CUT, Reply(200, (b'{"data"',), after="cut"))
    assert [model.id for model in await client.models()] == ["tiny", "coder"]
    assert len(server.seen) == 3


async def test_no_retries_means_one_try(server: Server) -> None:
    server.script(CHAT, refusal(503))
    with pytest.raises(ServiceError):
        await LLMClient(server.url, max_retries=0).chat("Hi")
    assert len(server.seen) == 1


async def test_a_refused_stream_is_repeated_until_it_opens(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, refusal(503), refusal(503))
    text = "".join([chunk.text async for chunk in client.stream("Hi")])
    assert text == "Two and two make four."
    server.script(CHAT, refusal(400, "context_length_exceeded"))
    with pytest.raises(InvalidRequest):
        await anext(client.stream("Hi"))
    assert len(server.seen) == 4
