"""The official SDKs, unmodified, sync and async: right answers, right exception classes.

Answers come from real engines: llama.cpp with SmolLM2, as the catalog of the repository has them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import yaml

from tests.harness import REPOSITORY, GatewayHome
from tests.integration.gateways import (
    MESSAGES,
    at_rest,
    key_of,
    key_setting,
    requests_of,
    shared_gateway,
)

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

LONG, WIDE = "smollm2-long", "smollm2-wide"
CONTEXT = 512
TOO_LONG = [{"role": "user", "content": "word " * 2 * CONTEXT}]
FEW = {"model": LONG, "temperature": 0}
GREEDY = {"model": LONG, "extra_body": {"temperature": 0}}
"""The same for Anthropic's SDK, which has no such argument."""
PLAIN = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]


def smollm2(model: str) -> Any:
    """An entry of the repository's catalog, with less memory for its context."""

    def entry(_: Path) -> dict[str, Any]:
        catalog = yaml.safe_load((REPOSITORY / "config/models.yaml").read_text())
        found: dict[str, Any] = catalog["models"][model]
        found["engine"]["context"] = found["max_model_len"] = CONTEXT
        return found

    return entry


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {LONG: smollm2(LONG), WIDE: smollm2(WIDE)}
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture(autouse=True)
def quiet(home: GatewayHome) -> Iterator[None]:
    yield
    at_rest(home)


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
async def oai(home: GatewayHome, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    client = request.param(base_url=home.url + "/v1", api_key=key_of("alice"), timeout=60)
    yield client
    await result(client.close())


@pytest.fixture(params=[anthropic.Anthropic, anthropic.AsyncAnthropic], ids=["sync", "async"])
async def claude(home: GatewayHome, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    client = request.param(base_url=home.url, api_key=key_of("alice"), timeout=60)
    yield client
    await result(client.close())


async def result(value: Any) -> Any:
    """Return what a sync or an async method returns."""
    return await value if inspect.isawaitable(value) else value


async def items(value: Any) -> list[Any]:
    """Return what a sync or an async iterator yields."""
    stream = await result(value)
    return [x async for x in stream] if hasattr(stream, "__aiter__") else list(stream)


async def error(expected: type[Exception], value: Any) -> Any:
    """Return the error that a call ends in."""
    with pytest.raises(expected) as raised:
        await result(value())
    assert type(raised.value) is expected
    return raised.value


@pytest.mark.feature("OpenAI SDK")
class TestOpenAI:
    async def test_chat(self, oai: Any) -> None:
        answer = await result(oai.chat.completions.create(messages=PLAIN, max_tokens=8, **FEW))

        assert answer.object == "chat.completion"
        assert answer.model == LONG
        assert answer.choices[0].message.role == "assistant"
        assert "Paris" in answer.choices[0].message.content
        assert answer.usage.total_tokens == (
            answer.usage.prompt_tokens + answer.usage.completion_tokens
        )

    async def test_chat_stream_with_usage(self, oai: Any) -> None:
        chunks = await items(
            oai.chat.completions.create(
                messages=PLAIN,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
                **FEW,
            )
        )

        *told, last = chunks
        text = "".join(c.choices[0].delta.content or "" for c in told if c.choices)
        assert "Paris" in text
        assert told[-1].choices[0].finish_reason in {"stop", "length"}
        assert last.choices == []
        assert 0 < last.usage.completion_tokens <= 8
        assert [c.usage for c in told] == [None] * len(told)

    async def test_the_streaming_helper(self, oai: Any) -> None:
        manager = oai.chat.completions.stream(messages=PLAIN, max_tokens=8, **FEW)
        if isinstance(oai, openai.AsyncOpenAI):
            async with manager as stream:
                whole = await stream.get_final_completion()
        else:
            with manager as stream:
                whole = stream.get_final_completion()
        assert "Paris" in whole.choices[0].message.content

    async def test_completions(self, oai: Any) -> None:
        asked = {"prompt": "The capital of France is", "max_tokens": 4, **FEW}
        whole = await result(oai.completions.create(**asked))
        chunks = await items(oai.completions.create(stream=True, **asked))

        assert whole.object == "text_completion"
        assert "Paris" in whole.choices[0].text
        assert whole.usage.completion_tokens == 4
        assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"

    async def test_responses(self, oai: Any) -> None:
        asked = {"input": PLAIN[0]["content"], "max_output_tokens": 8, **FEW}
        whole = await result(oai.responses.create(**asked))
        events = await items(oai.responses.create(stream=True, **asked))

        assert whole.status == "completed"
        assert "Paris" in whole.output_text
        assert whole.usage.output_tokens > 0
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        told = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert told == whole.output_text == events[-1].response.output_text

    async def test_embeddings_name_who_can(self, oai: Any) -> None:
        refused = await error(
            openai.BadRequestError, lambda: oai.embeddings.create(model=LONG, input="x")
        )
        assert refused.code == "unsupported_by_model"
        assert "Models that can: none in this set-up" in refused.message

    async def test_models(self, oai: Any) -> None:
        listed = [model.id for model in await items(oai.models.list())]
        one = await result(oai.models.retrieve("smollm2"))

        assert listed == [LONG, WIDE]
        assert (one.id, one.object, one.max_model_len) == (LONG, "model", CONTEXT)
        missing = await error(openai.NotFoundError, lambda: oai.models.retrieve("nobody"))
        assert missing.code == "model_not_found"

    async def test_a_wrong_model(self, oai: Any) -> None:
        wrong = await error(
            openai.NotFoundError,
            lambda: oai.chat.completions.create(model="nobody", messages=MESSAGES),
        )
        assert (wrong.code, wrong.param) == ("model_not_found", "model")
        assert f"There are: {LONG}, {WIDE}." in wrong.message

    async def test_wrong_and_missing_keys(self, oai: Any) -> None:
        bad = oai.with_options(api_key="wrong")
        wrong = await error(openai.AuthenticationError, lambda: bad.models.retrieve(LONG))
        none = await error(
            openai.AuthenticationError,
            lambda: oai.models.retrieve(LONG, extra_headers={"authorization": openai.Omit()}),
        )
        assert (wrong.code, wrong.type) == ("invalid_api_key", "authentication_error")
        assert none.code == "invalid_api_key"
        assert "This needs a key." in none.message

    async def test_a_missing_scope(self, home: GatewayHome, oai: Any) -> None:
        load = home.url + "/api/v1/inference/load"
        refused = await error(
            openai.PermissionDeniedError,
            lambda: oai.post(load, body={"model": LONG}, cast_to=object),
        )
        assert refused.code == "insufficient_scope"
        assert "'alice' does not have the scope 'admin'" in refused.message

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_too_long_prompt(self, oai: Any, stream: bool) -> None:
        await result(oai.chat.completions.create(messages=PLAIN, max_tokens=1, **FEW))
        refused = await error(
            openai.BadRequestError,
            lambda: oai.chat.completions.create(messages=TOO_LONG, stream=stream, **FEW),
        )
        assert refused.code == "context_length_exceeded"
        assert f"the model takes {CONTEXT} tokens" in refused.message

    @pytest.mark.parametrize(
        "wrong", [{"messages": "x"}, {"max_tokens": "many"}, {"model": 5}, {"stream": "yes"}]
    )
    async def test_wrong_types(self, oai: Any, wrong: dict[str, Any]) -> None:
        asked = {"messages": PLAIN, "max_tokens": 1, **FEW, **wrong}
        refused = await error(openai.BadRequestError, lambda: oai.chat.completions.create(**asked))
        assert refused.code == "invalid_request"
        assert refused.type == "invalid_request_error"
        assert next(iter(wrong)) in refused.message

    async def test_request_ids(self, oai: Any) -> None:
        named = {"x-request-id": "my-id-1"}
        mine = await result(oai.models.retrieve(LONG, extra_headers=named))
        other = await result(oai.models.retrieve(LONG))
        assert mine._request_id == "my-id-1"
        assert len(other._request_id) == 24
        missing = await error(
            openai.NotFoundError, lambda: oai.models.retrieve("nobody", extra_headers=named)
        )
        assert missing.request_id == "my-id-1"

    async def test_a_timeout_of_the_client(self, oai: Any) -> None:
        hasty = oai.with_options(timeout=0.2, max_retries=0)
        # It must not come to an end by itself before that.
        endless = {"max_tokens": 500, "extra_body": {"ignore_eos": True}}
        await error(
            openai.APITimeoutError,
            lambda: hasty.chat.completions.create(messages=MESSAGES, model=LONG, **endless),
        )


@pytest.mark.feature("Anthropic SDK")
class TestAnthropic:
    async def test_messages(self, claude: Any) -> None:
        answer = await result(claude.messages.create(messages=PLAIN, max_tokens=8, **GREEDY))

        assert (answer.type, answer.role, answer.model) == ("message", "assistant", LONG)
        assert "Paris" in answer.content[0].text
        assert answer.stop_reason in {"end_turn", "max_tokens"}
        assert answer.usage.output_tokens > 0

    async def test_message_streams(self, claude: Any) -> None:
        asked = {"messages": PLAIN, "max_tokens": 8, **GREEDY}
        events = await items(claude.messages.create(stream=True, **asked))

        kinds = [event.type for event in events]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        text = "".join(e.delta.text for e in events if e.type == "content_block_delta")
        assert "Paris" in text
        assert events[-2].usage.output_tokens > 0

    @pytest.mark.parametrize(
        "prompt", [PLAIN[0]["content"], "Answer with a tree emoji only: \N{EVERGREEN TREE}"]
    )
    async def test_the_streaming_helper(self, claude: Any, prompt: str) -> None:
        asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **GREEDY}
        if isinstance(claude, anthropic.AsyncAnthropic):
            async with claude.messages.stream(**asked) as stream:
                whole = await stream.get_final_message()
        else:
            with claude.messages.stream(**asked) as stream:
                whole = stream.get_final_message()
        assert whole.model == LONG
        assert whole.content[0].text
        assert whole.stop_reason in {"end_turn", "max_tokens"}

    async def test_counting_tokens_never_switches(self, home: GatewayHome, claude: Any) -> None:
        await result(claude.messages.create(messages=PLAIN, max_tokens=1, **GREEDY))
        count = await result(claude.messages.count_tokens(model=LONG, messages=PLAIN))
        assert 10 < count.input_tokens < 60

        refused_here = {"route": "/v1/messages/count_tokens", "model": WIDE, "status": "4xx"}
        before = requests_of(home, **refused_here)
        refused = await error(
            anthropic.ConflictError,
            lambda: claude.messages.count_tokens(model=WIDE, messages=PLAIN),
        )
        assert f"bash scripts/switch_model.sh {WIDE}" in refused.message
        assert refused.response.headers["x-should-retry"] == "false"
        assert requests_of(home, **refused_here) == before + 1, "no retries"

    async def test_models(self, claude: Any) -> None:
        assert [model.id for model in await items(claude.models.list())] == [LONG, WIDE]
        assert (await result(claude.models.retrieve(WIDE))).id == WIDE

    async def test_errors(self, home: GatewayHome, claude: Any) -> None:
        create = claude.messages.create
        one = {"messages": MESSAGES, "max_tokens": 1}
        wrong = await error(anthropic.NotFoundError, lambda: create(model="nobody", **one))
        assert wrong.body["error"]["type"] == "not_found_error"
        assert f"There are: {LONG}, {WIDE}." in wrong.message

        bad = claude.with_options(api_key="wrong")
        refused = await error(
            anthropic.AuthenticationError, lambda: bad.messages.create(model=LONG, **one)
        )
        assert refused.body["error"]["type"] == "authentication_error"

        load = home.url + "/api/v1/inference/load"
        await error(
            anthropic.PermissionDeniedError,
            lambda: claude.post(load, body={"model": LONG}, cast_to=object),
        )
        await result(create(model=LONG, **one))
        long = await error(
            anthropic.BadRequestError,
            lambda: create(model=LONG, messages=TOO_LONG, max_tokens=1),
        )
        assert f"the model takes {CONTEXT} tokens" in long.message
        typed = await error(
            anthropic.BadRequestError, lambda: create(model=LONG, messages=MESSAGES, max_tokens="x")
        )
        assert typed.body["error"]["type"] == "invalid_request_error"

    async def test_request_ids(self, claude: Any) -> None:
        named = {"x-request-id": "my-id-2"}
        missing = await error(
            anthropic.NotFoundError, lambda: claude.models.retrieve("nobody", extra_headers=named)
        )
        assert missing.response.headers["x-request-id"] == "my-id-2"


async def test_asking_for_another_model_amid_an_answer(home: GatewayHome) -> None:
    options: dict[str, Any] = {"api_key": key_of("alice"), "timeout": 60}
    async with (
        openai.AsyncOpenAI(base_url=home.url + "/v1", **options) as oai,
        anthropic.AsyncAnthropic(base_url=home.url, **options) as claude,
    ):
        stream = await oai.chat.completions.create(
            messages=PLAIN, max_tokens=12, stream=True, model=LONG, extra_body={"ignore_eos": True}
        )
        chunks = [await anext(stream)]
        other = asyncio.create_task(
            claude.messages.create(messages=PLAIN, max_tokens=8, **{**GREEDY, "model": WIDE})
        )
        chunks += [chunk async for chunk in stream]
        answer = await other

    assert chunks[-1].choices[0].finish_reason == "length", "the answer that ran was finished"
    assert answer.model == WIDE
    assert "Paris" in answer.content[0].text
    assert (home.state(LONG), home.state(WIDE)) == ("stopped", "awake")
