"""`LLMClient` against the real gateway: what it returns, and what it raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from llm_backend import LLMClient
from llm_backend.client import ChatCompletion, HTTPAnswer
from llm_backend.errors import (
    ConnectionFailed,
    EngineGone,
    EngineStartFailed,
    Forbidden,
    InvalidKey,
    InvalidRequest,
    LLMBackendError,
    ModelNotActive,
    ModelNotFound,
    NotSupported,
    Overloaded,
    PromptTooLong,
)
from tests.harness import GatewayHome, eventually
from tests.integration.gateways import (
    at_rest,
    fake,
    fakes,
    key_of,
    key_setting,
    shared_gateway,
)

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.feature("Python client")]

QUESTION = "What is two and two?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fake("good", "--max-model-len 50", aliases=["best"], max_model_len=50),
        **fake("embedder", capabilities=["embeddings"]),
        **fake("single", "--token-delay-s 0.05 --tokens 400", concurrency=1),
        **fakes(late="--load-s 1.5", dies="--die-after-tokens 3", ill="--exit-at-start 1"),
    }
    limits = {"queue": 1, "queue_timeout_s": 10}
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, models, keys=keys, limits=limits) as home:
        yield home


@pytest.fixture
async def client(home: GatewayHome) -> AsyncIterator[LLMClient]:
    """A client with an admin key, that tries everything once."""
    key = home.admin["authorization"].removeprefix("Bearer ")
    async with LLMClient(home.url, key, max_retries=0) as client:
        yield client
    at_rest(home)


async def failure(expected: type[LLMBackendError], call: object) -> LLMBackendError:
    with pytest.raises(expected) as raised:
        await call  # type: ignore[misc]  # every call of the client can be awaited
    assert type(raised.value) is expected
    return raised.value


async def test_chat(client: LLMClient) -> None:
    answer = await client.chat(QUESTION, model="best", max_tokens=3)

    assert answer.text == "good word2 word3"
    assert answer["choices"][0]["message"]["content"] == answer.text
    assert (answer.model, answer.choices[0].finish_reason) == ("good", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_generate_takes_a_text_or_messages(client: LLMClient) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    texts = [await client.generate(asked, "good") for asked in (QUESTION, messages)]
    assert texts[0] == texts[1] == "good word2 word3 word4 word5 word6 word7 word8"


async def test_a_client_needs_no_block(home: GatewayHome) -> None:
    client = LLMClient(home.url + "/v1", key_of("alice"))
    assert await client.generate(QUESTION, "good", max_tokens=1) == "good"


async def test_streams(client: LLMClient) -> None:
    chunks = [
        chunk
        async for chunk in client.stream(
            QUESTION, "good", max_tokens=3, stream_options={"include_usage": True}
        )
    ]
    assert "".join(chunk.text for chunk in chunks) == "good word2 word3"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_a_stream_tells_what_it_waits_for(client: LLMClient) -> None:
    told: list[str] = []
    await client.switch("good")

    chunks = [c.text async for c in client.stream(QUESTION, "late", on_wait=told.append)]

    assert "".join(chunks).startswith("late word2")
    assert told
    # The policy may leave the other model its turn for a moment.
    assert told[0].startswith(("loading late", "waiting for late"))


async def test_a_stream_can_be_left(home: GatewayHome, client: LLMClient) -> None:
    await client.switch("single")
    gone = home.events("single").count("gone")
    async with client.stream(QUESTION, "single") as stream:
        await anext(stream)
    await asyncio.to_thread(eventually, lambda: home.events("single").count("gone") == gone + 1)


async def test_the_models(client: LLMClient) -> None:
    models = {model.id: model for model in await client.models()}
    assert list(models) == ["good", "embedder", "single", "late", "dies", "ill"]
    assert models["good"].aliases == ("best",)
    assert models["good"].max_model_len == 50
    assert models["embedder"].capabilities == ("embeddings",)


async def test_the_health(home: GatewayHome, client: LLMClient) -> None:
    health = await client.health_check()
    assert health
    assert home.process is not None
    assert health.gateway.pid == home.process.pid
    assert health.models["good"].inflight == 0
    nobody = await LLMClient("http://127.0.0.1:9", max_retries=0).health_check()
    assert not nobody
    assert "127.0.0.1:9" in nobody.reason


async def test_switches_and_the_status(client: LLMClient) -> None:
    switched = await client.switch("best")
    assert (switched.model, switched.state) == ("good", "awake")
    assert switched.seconds is not None
    begun = await client.switch("late", wait=False)
    assert begun.model == "late"
    status = await client.status()
    assert status.switch is not None
    assert status.switch.to == "late"
    await client.switch("late")
    status = await client.status()
    assert (status.is_loaded, status.model, status.switch) == (True, "late", None)


async def test_what_the_caller_can_mend(home: GatewayHome, client: LLMClient) -> None:
    await client.switch("good")
    missing = await failure(ModelNotFound, client.chat(QUESTION, "nobody"))
    assert "There are: good," in str(missing)
    assert missing.param == "model"
    assert isinstance(missing.__cause__, HTTPAnswer)
    request_id = str(missing.__cause__.request_id)
    await asyncio.to_thread(eventually, lambda: request_id in home.log.read_text())
    await failure(NotSupported, client.chat(QUESTION, "embedder"))
    await failure(PromptTooLong, client.chat("word " * 100, "good"))
    await failure(InvalidRequest, client.chat(QUESTION, 5))  # type: ignore[arg-type]  # on purpose
    await failure(ModelNotFound, client.switch("nobody"))


async def test_keys_and_scopes(home: GatewayHome) -> None:
    refused = LLMClient(home.url, "wrong", max_retries=0)
    assert await failure(InvalidKey, refused.models())
    alice = LLMClient(home.url, key_of("alice"), max_retries=0)
    assert "scope 'admin'" in str(await failure(Forbidden, alice.switch("good")))


async def test_what_engines_do(client: LLMClient) -> None:
    died = await failure(EngineGone, client.chat(QUESTION, "dies"))
    assert "killed by SIGKILL" in str(died)
    stream = client.stream(QUESTION, "dies")
    chunks = [await anext(stream) for _ in range(4)]
    assert "".join(chunk.text for chunk in chunks) == "dies word2 word3"
    with pytest.raises(EngineGone, match="killed by SIGKILL"):
        await anext(stream)
    for call in (client.chat(QUESTION, "ill"), client.switch("ill")):
        started = await failure(EngineStartFailed, call)
        assert "exited with status 1 before it was ready" in str(started)
    await client.switch("good")


async def test_a_full_line(client: LLMClient) -> None:
    await client.switch("single")
    tasks = [asyncio.create_task(client.chat(QUESTION, "single")) for _ in range(2)]
    while (await client.status()).queue.length < 1:
        pass
    full = await failure(Overloaded, client.chat(QUESTION, "single"))
    assert full.retry_after_s is not None
    await end(tasks)


async def end(tasks: list[asyncio.Task[ChatCompletion]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_full_line_is_tried_again_after_the_time_that_it_says(home: GatewayHome) -> None:
    waited: list[float] = []

    async def until_free(seconds: float) -> None:
        waited.append(seconds)
        await end(tasks)
        await asyncio.to_thread(at_rest, home)

    client = LLMClient(home.url, key_of("alice"), max_retries=1, sleep=until_free)
    tasks = [asyncio.create_task(client.chat(QUESTION, "single")) for _ in range(2)]
    while (await client.status()).queue.length < 1:
        pass
    assert (await client.chat(QUESTION, "single", max_tokens=1)).text == "single"
    assert len(waited) == 1
    assert 1 <= waited[0] <= 120


async def test_routes_that_never_switch(client: LLMClient) -> None:
    await client.switch("good")
    error = await failure(ModelNotActive, client._post("/tokenize", {"model": "late"}))
    assert error.hint is None
    assert "bash scripts/switch_model.sh late" in str(error)


async def test_nobody_there(home: GatewayHome) -> None:
    nobody = LLMClient("http://127.0.0.1:9", max_retries=0)
    assert "127.0.0.1:9" in str(await failure(ConnectionFailed, nobody.chat(QUESTION)))
