"""Each method against a real server."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llm_backend import (
    ConfigError,
    ConnectionFailed,
    EngineBroke,
    Forbidden,
    InvalidRequest,
    LLMClient,
    ModelNotFound,
    PromptTooLong,
)
from llm_backend.client import HTTPAnswer

from .server import HEALTH, MODELS, STATUS, Reply, Server, completion, refusal, reply

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"


async def test_an_answer_reads_by_attribute_and_as_json(client: LLMClient) -> None:
    answer = await client.chat("What is two and two?", model="coder")
    assert answer.choices[0].message.content == "Two and two make four."
    assert answer["choices"][0]["message"]["content"] == "Two and two make four."
    assert (answer.text, answer.model) == ("Two and two make four.", "coder")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    assert answer.to_dict() == completion("Two and two make four.", "coder")


async def test_the_body_has_what_was_asked_for_and_nothing_else(
    server: Server, client: LLMClient
) -> None:
    await client.chat("Hi", temperature=0, stop=None)
    assert server.seen[0].json() == {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "stop": None,
    }
    assert server.seen[0].headers["content-type"] == "application/json"


async def test_a_message_of_the_model_goes_back_as_it_is(server: Server, client: LLMClient) -> None:
    question = {"role": "user", "content": "Hi"}
    answer = await client.chat([question])
    await client.chat([question, answer.choices[0].message, {"role": "user", "content": "Why?"}])
    assert server.seen[1].json()["messages"][1] == {
        "role": "assistant",
        "content": "Two and two make four.",
    }


async def test_generate_returns_the_text(client: LLMClient) -> None:
    assert await client.generate([{"role": "user", "content": "Hi"}]) == "Two and two make four."


async def test_generate_of_a_tool_call_is_empty(server: Server, client: LLMClient) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    server.script(CHAT, *[reply({"choices": [{"message": message}]})] * 2)
    assert await client.generate("Add!") == ""
    assert (await client.chat("Add!")).choices[0].message.tool_calls[0].function.name == "add"


async def test_chat_sends_the_reader_of_streams_to_stream(
    server: Server, client: LLMClient
) -> None:
    with pytest.raises(InvalidRequest, match=r"Call stream\(\) instead"):
        await client.chat("Hi", stream=True)
    assert server.seen == []


async def test_models_and_status(client: LLMClient) -> None:
    tiny, coder = await client.models()
    assert (tiny.id, tiny.max_model_len, tiny.capabilities) == ("tiny", 2048, ("chat",))
    assert (coder.max_model_len, coder["owned_by"]) == (None, "someone else")
    assert tiny.to_dict() == MODELS["data"][0]
    status = await client.status()
    assert status.is_loaded
    assert status.switch is not None
    assert (status.switch.to, status.switch.from_) == ("coder", "tiny")
    assert status.queue.by_model == {"coder": 1}
    assert status.models[0].state == "awake"
    assert status.to_dict() == STATUS


async def test_switch_waits_until_the_model_is_awake_or_not(server: Server) -> None:
    client = LLMClient(server.url, "admin-key")
    done = await client.switch("coder")
    assert (done.model, done.state, done.seconds) == ("coder", "awake", 3.5)
    begun = await client.switch("coder", wait=False)
    assert (begun.state, begun.seconds) == ("starting", None)


async def test_switch_with_the_wrong_key_is_refused(server: Server) -> None:
    with pytest.raises(Forbidden, match="This key cannot switch"):
        await LLMClient(server.url, "other-key").switch("coder")


async def test_a_healthy_gateway_is_true_and_has_details(client: LLMClient) -> None:
    health = await client.health_check()
    assert health
    assert health.reason == ""
    assert health.gateway.version == "0.1.0"
    assert health.devices["cpu"].free_mib == 9000
    assert health.models["tiny"].state == "awake"
    assert health["cache"]["kind"] == "memory"


@pytest.mark.parametrize("status", [200, 503])
async def test_a_degraded_gateway_is_false_and_names_what_failed(
    server: Server, client: LLMClient, status: int
) -> None:
    failed = {"tiny": {"state": "failed", "reason": "exited with status 1"}, "coder": {}}
    server.script("GET /health", reply({**HEALTH, "status": "degraded", "models": failed}, status))
    health = await client.health_check()
    assert not health
    assert health.status == "degraded"
    assert health.reason == "tiny failed: exited with status 1"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply({"status": "degraded"}), "The gateway is degraded."),
        (refusal(401, "invalid_api_key", "Who are you?"), "Who are you?"),
        (reply({"status": "ok"}, 404), "answered 404"),
        (Reply(200, (b"<html>",)), "not valid JSON"),
        (reply({"status": 3}), "status must be a string, not 3"),
        (Reply(0, after="cut"), "gave no answer"),
    ],
)
async def test_what_is_not_well_is_false_with_a_reason(
    server: Server, client: LLMClient, answer: Reply, reason: str
) -> None:
    server.script("GET /health", answer)
    health = await client.health_check()
    assert not health
    assert reason in health.reason
    assert len(server.seen) == 1


async def test_no_gateway_is_false_and_says_how_to_start_one(refused: str) -> None:
    health = await LLMClient(refused).health_check()
    assert not health
    assert health.status == "down"
    assert f"Nothing answers at {refused}" in health.reason
    assert "llm-backend start" in health.reason


async def test_a_refusal_has_the_class_of_its_code_and_the_answer(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, refusal(404, "model_not_found", "No 'gpt-9'.", x_request_id="req-9"))
    with pytest.raises(ModelNotFound, match=r"No 'gpt-9'\.") as caught:
        await client.chat("Hi", model="gpt-9")
    answer = caught.value.__cause__
    assert isinstance(answer, HTTPAnswer)
    assert (answer.status, answer.request_id) == (404, "req-9")
    assert b"gpt-9" in answer.body
    assert caught.value.__notes__ == ["Request id: req-9"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Reply(200, (b"<html>hello</html>",)), "not valid JSON"),
        (Reply(200), "not valid JSON"),
        (reply([1]), "JSON array, not an object"),
        (reply({}), "choices is missing"),
        (reply({"choices": None}), "choices is null"),
        (reply({"choices": []}), "choices is empty"),
        (reply({"choices": [{"message": {"content": 7}}]}), r"choices\[0\]\.message\.content must"),
    ],
)
async def test_an_answer_that_is_none_is_named(
    server: Server, client: LLMClient, answer: Reply, message: str
) -> None:
    server.script(CHAT, answer)
    with pytest.raises(EngineBroke, match=message) as caught:
        await client.chat("Hi")
    assert "not a ChatCompletion" in str(caught.value)
    assert f"{server.url}{CHAT.removeprefix('POST ')}" in str(caught.value)
    assert isinstance(caught.value.__cause__, HTTPAnswer)


async def test_an_error_object_with_status_200_is_an_error(
    server: Server, client: LLMClient
) -> None:
    body = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    server.script(CHAT, reply(body))
    with pytest.raises(PromptTooLong, match="too long"):
        await client.chat("Hi")


async def test_many_tasks_share_a_client(server: Server, client: LLMClient) -> None:
    async with client:
        texts = await asyncio.gather(*(client.generate(f"Question {i}") for i in range(20)))
    assert set(texts) == {"Two and two make four."}
    assert len(server.seen) == 20


async def test_slow_answers_end_at_the_deadline(server: Server) -> None:
    server.script(CHAT, Reply(200, after="silence"))
    client = LLMClient(server.url, timeout_s=0.3)
    with pytest.raises(ConnectionFailed, match=r"gave no answer within 0\.3 s.*timeout_s"):
        await client.chat("Hi")
    assert len(server.seen) == 1
    assert await asyncio.to_thread(server.left.wait, 10)


async def test_cancelling_a_call_hangs_up(server: Server, client: LLMClient) -> None:
    server.script(CHAT, Reply(200, after="silence"))
    call = asyncio.create_task(client.chat("Hi"))
    assert await asyncio.to_thread(server.arrived.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(server.left.wait, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout_s": 0}, "timeout_s must be above 0, not 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0, not nan"),
        ({"max_retries": -1}, "max_retries must be 0 or more, not -1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        LLMClient(**arguments)  # type: ignore[arg-type]  # that is the point


def test_a_client_shows_its_address_and_not_its_key() -> None:
    assert repr(LLMClient("http://gpu:7000/v1", "secret")) == "LLMClient('http://gpu:7000')"


@pytest.mark.parametrize("held", [False, True])
def test_one_client_serves_one_event_loop_after_another(server: Server, held: bool) -> None:
    client = LLMClient(server.url)

    async def ask() -> str:
        if held:
            async with client:
                return await client.generate("Hi")
        return await client.generate("Hi")

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["Two and two make four."] * 2


def test_event_loops_of_several_threads_share_a_client(server: Server) -> None:
    client = LLMClient(server.url)
    texts: list[str] = []

    async def ask() -> None:
        async with client:
            texts.extend([await client.generate("Hi") for _ in range(5)])

    threads = [threading.Thread(target=asyncio.run, args=(ask(),), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == ["Two and two make four."] * 15
