"""Engines and switches that fail, as the official SDKs show it: an exception, never a clean end."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    fakes,
    requests_of,
    shared_gateway,
)

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

BROKEN = {
    "cut": ("--cut-stream", "engine_gone"),
    "abort": ("--abort-finish", "engine_error"),
    "dies": ("--die-after-tokens 3", "engine_gone"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    flags = {name: flag for name, (flag, _) in BROKEN.items()}
    models = fakes(
        good="", slow="--token-delay-s 0.1 --tokens 100", ill="--exit-at-start 1", **flags
    )
    settings = {"switching": {"mode": "manual"}, "limits": {"request_timeout_s": 2}}
    with shared_gateway(tmp_path_factory, models, **settings) as home:
        yield home


@pytest.fixture(autouse=True)
def quiet(home: GatewayHome) -> Iterator[None]:
    yield
    at_rest(home)


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
async def oai(home: GatewayHome, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    client = request.param(base_url=home.url + "/v1", api_key="any", timeout=30, max_retries=0)
    yield client
    await result(client.close())


@pytest.fixture(params=[anthropic.Anthropic, anthropic.AsyncAnthropic], ids=["sync", "async"])
async def claude(home: GatewayHome, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    client = request.param(base_url=home.url, api_key="any", timeout=30, max_retries=0)
    yield client
    await result(client.close())


async def result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def until_error(expected: type[Exception], value: Any) -> tuple[int, Any]:
    """Return how many events a stream had, and the error that it ended in."""
    seen: list[Any] = []
    stream = await result(value)
    with pytest.raises(expected) as raised:
        await drain(stream, seen)
    assert type(raised.value) is expected
    return len(seen), raised.value


async def drain(stream: Any, seen: list[Any]) -> None:
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            seen.append(event)  # noqa: PERF401 # what came before an error counts
    else:
        seen.extend(stream)


@pytest.mark.parametrize("model", list(BROKEN))
async def test_a_broken_chat_stream_raises(home: GatewayHome, oai: Any, model: str) -> None:
    home.load(model)
    stream = oai.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    count, error = await until_error(openai.APIError, stream)
    assert count >= 2, "what came before the break was passed on"
    assert error.code == BROKEN[model][1]
    assert error.body["message"] == error.message


async def test_a_broken_responses_stream_raises(home: GatewayHome, oai: Any) -> None:
    home.load("dies")
    stream = oai.responses.create(model="dies", input="Say hi", stream=True)
    count, error = await until_error(openai.APIError, stream)
    assert count >= 2
    assert error.code == "engine_gone"


async def test_a_broken_message_stream_raises(home: GatewayHome, claude: Any) -> None:
    home.load("dies")
    stream = claude.messages.create(model="dies", messages=MESSAGES, max_tokens=8, stream=True)
    count, error = await until_error(anthropic.APIStatusError, stream)
    assert count >= 2
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == "overloaded_error"
    assert "engine" in error.body["error"]["message"]


async def test_a_conflict_is_not_tried_again(home: GatewayHome, oai: Any) -> None:
    home.load("good")
    before = requests_of(home, route=CHAT, model="slow")
    patient = oai.with_options(max_retries=2)
    with pytest.raises(openai.ConflictError) as raised:
        await result(patient.chat.completions.create(model="slow", messages=MESSAGES))
    assert raised.value.code == "model_not_active"
    assert "bash scripts/switch_model.sh slow" in raised.value.message
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert requests_of(home, route=CHAT, model="slow") == before + 1


async def test_what_waiting_helps_is_tried_again(home: GatewayHome, oai: Any) -> None:
    home.load("dies")
    before = requests_of(home, route=CHAT, model="dies")
    patient = oai.with_options(max_retries=1)
    with pytest.raises(openai.InternalServerError) as raised:
        await result(patient.chat.completions.create(model="dies", messages=MESSAGES))
    assert raised.value.status_code == 503
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 120
    assert requests_of(home, route=CHAT, model="dies") == before + 2


async def test_an_engine_that_takes_too_long(home: GatewayHome, oai: Any) -> None:
    home.load("slow")
    with pytest.raises(openai.InternalServerError) as raised:
        await result(oai.chat.completions.create(model="slow", messages=MESSAGES))
    assert raised.value.status_code == 504
    assert raised.value.code == "engine_timeout"


async def test_a_failed_start_is_an_error_of_the_server(home: GatewayHome, oai: Any) -> None:
    load = home.url + "/api/v1/inference/load"
    key = home.admin["authorization"].removeprefix("Bearer ")
    with pytest.raises(openai.InternalServerError) as raised:
        await result(
            oai.with_options(api_key=key).post(load, body={"model": "ill"}, cast_to=object)
        )
    assert raised.value.code == "engine_start_failed"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "exited with status 1 before it was ready" in raised.value.message
    home.load("good")


async def test_embeddings(home: GatewayHome, oai: Any) -> None:
    home.load("good")
    answer = await result(
        oai.embeddings.create(model="good", input=["a", "bc"], encoding_format="float")
    )
    assert [len(data.embedding) for data in answer.data] == [2, 2]
    assert answer.usage.total_tokens > 0
