"""Many requests at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from llm_backend import ConfigError, InvalidRequest, LLMClient, ModelNotFound, RateLimited
from llm_backend.client.batch import run_batch

from .server import Server, completion, refusal, reply

pytestmark = [pytest.mark.anyio, pytest.mark.feature("batch helper")]

CHAT = "POST /v1/chat/completions"


class Word(BaseModel):
    """A word."""

    word: str


async def test_results_are_in_order_and_no_more_run_than_may() -> None:
    running, most, gates = 0, 0, {n: asyncio.Event() for n in range(6)}
    finished: list[int] = []

    async def ask(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:  # the later one may go first
            gates[number].set()
        await gates[number].wait()
        finished.append(number)
        for gate in gates.values():
            gate.set()
        running -= 1
        return number * 10

    told: list[tuple[int, int]] = []
    outcomes = await run_batch(ask, range(6), 2, lambda done, of: told.append((done, of)))

    assert [outcome.get() for outcome in outcomes] == [0, 10, 20, 30, 40, 50]
    assert finished[0] == 1
    assert most == 2
    assert told == [(n, 6) for n in range(1, 7)]


async def test_one_failure_loses_nothing_else(server: Server, client: LLMClient) -> None:
    server.script(
        CHAT, reply(completion("A")), refusal(404, "model_not_found"), reply(completion("C"))
    )

    first, second, third = await client.batch(["a", "b", "c"], "tiny", concurrency=1, seed=1)

    assert (first.value, first.error) == ("A", None)
    assert second.value is None
    assert isinstance(second.error, ModelNotFound)
    with pytest.raises(ModelNotFound):
        second.get()
    assert third.get() == "C"
    assert [seen.json()["seed"] for seen in server.seen] == [1, 1, 1]


async def test_shapes(server: Server, client: LLMClient) -> None:
    server.script(CHAT, reply(completion('{"word": "да"}')), reply(completion("no")))

    good, bad = await client.batch(["a", "b"], schema=Word, concurrency=1)

    assert good.get().word == "да"
    assert "word: Field required" in str(bad.error)


async def test_it_may_give_way_to_others(server: Server, client: LLMClient) -> None:
    await client.batch(["a"], low_priority=True)
    await client.batch(["a"])
    first, second = server.seen
    assert first.headers["x-llm-priority"] == "batch"
    assert "x-llm-priority" not in second.headers
    assert "extra_headers" not in first.json()


async def test_errors_that_can_be_repeated_are(
    server: Server, client: LLMClient, waits: list[float]
) -> None:
    server.script(CHAT, refusal(429, "rate_limit_exceeded", retry_after="3"))
    (outcome,) = await client.batch(["a"])
    assert outcome.value == "Two and two make four."
    assert waits == [3]
    server.script(CHAT, *[refusal(429, "rate_limit_exceeded")] * 3)
    (outcome,) = await client.batch(["a"])
    assert isinstance(outcome.error, RateLimited)


async def test_nothing_to_do(client: LLMClient) -> None:
    assert await client.batch([]) == []


async def test_what_is_wrong_with_all_is_said_once(server: Server, client: LLMClient) -> None:
    with pytest.raises(ConfigError, match="concurrency must be 1 or more, not 0"):
        await client.batch(["a"], concurrency=0)
    with pytest.raises(InvalidRequest, match="schema"):
        await client.batch(["a"], schema={"type": "text"})
    assert server.seen == []


async def test_calling_it_off_ends_all_of_it(server: Server, client: LLMClient) -> None:
    task = asyncio.create_task(client.batch(["a"] * 3, concurrency=3))
    await asyncio.to_thread(server.arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_on_progress_raises_ends_all_of_it(server: Server, client: LLMClient) -> None:
    def tell(done: int, of: int) -> None:
        raise ZeroDivisionError(f"{done} of {of}")

    with pytest.raises(ZeroDivisionError, match="1 of 9"):
        await client.batch(["a"] * 9, concurrency=1, on_progress=tell)
    assert len(server.seen) == 1


async def test_a_prompt_that_is_none_loses_nothing_else(client: LLMClient) -> None:
    bad: Any = {"role": "user", "content": "not in a list"}
    first, second = await client.batch([bad, "a"])
    assert isinstance(first.error, InvalidRequest)
    assert second.value == "Two and two make four."


async def test_one_text_is_no_list_of_prompts(server: Server, client: LLMClient) -> None:
    with pytest.raises(InvalidRequest, match="prompts must be a list"):
        await client.batch("What is two and two?")
    assert server.seen == []


async def test_low_priority_goes_beside_other_headers(server: Server, client: LLMClient) -> None:
    await client.batch(["a"], low_priority=True, extra_headers={"x-request-id": "r1"})
    assert server.seen[0].headers["x-llm-priority"] == "batch"
    assert server.seen[0].headers["x-request-id"] == "r1"
