"""The text API and the alias of chat, over HTTP, in front of engines that are real processes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest

from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    error_of,
    fake,
    fakes,
    key_of,
    key_setting,
    recorded,
    recorder,
    shared_gateway,
)
from tests.unit.gateway.pictures import GOOD, PNG64

pytestmark = [pytest.mark.engine, pytest.mark.feature("Text API")]

GENERATE, ALIAS = "/api/v1/inference/generate", "/api/v1/chat/completions"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fakes(first="", second=""),
        **fake("brittle", "--cut-stream"),
        **fake("embedder", capabilities=["embeddings"]),
        "echo": recorder(),
    }
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers={"authorization": f"Bearer {key_of('alice')}"}) as http:
        yield http
    at_rest(home)


def generated(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    response = http.post(GENERATE, json={"max_tokens": 4, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return dict(response.json())


def events(http: httpx2.Client, **fields: Any) -> list[str]:
    """The data of the events of a stream."""
    with http.stream("POST", GENERATE, json={"stream": True, **fields}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = list(response.iter_lines())
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def chunks(http: httpx2.Client, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that came to its end."""
    *told, end = events(http, **fields)
    assert end == "[DONE]"
    return [orjson.loads(each) for each in told]


def chat_text(http: httpx2.Client, **fields: Any) -> str:
    body = {"messages": MESSAGES, "max_tokens": 4, **fields}
    return str(http.post(CHAT, json=body).json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("asked", [{"prompt": "Say hi"}, {"messages": MESSAGES}])
def test_a_prompt_or_messages_get_the_text_of_a_chat(
    http: httpx2.Client, asked: dict[str, Any]
) -> None:
    answer = generated(http, model="first", **asked)
    assert set(answer) == {"text", "usage"}
    assert answer["text"] == chat_text(http, model="first") != ""
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("asked", [{"prompt": "Say hi"}, {"messages": MESSAGES}])
def test_a_stream_has_the_same_text_in_chunks(http: httpx2.Client, asked: dict[str, Any]) -> None:
    *told, last = chunks(http, model="first", max_tokens=4, **asked)
    assert [set(each) for each in told] == [{"text", "finish_reason"}] * 4
    assert {each["finish_reason"] for each in told} == {None}
    assert last == {"text": "", "finish_reason": "length"}
    assert "".join(each["text"] for each in told) == chat_text(http, model="first")


def test_usage_comes_last_where_it_is_asked_for(http: httpx2.Client) -> None:
    options = {"include_usage": True}
    *_, last = chunks(http, model="first", prompt="Say hi", max_tokens=3, stream_options=options)
    assert last["usage"]["completion_tokens"] == 3
    assert (last["text"], last["finish_reason"]) == ("", None)


@pytest.mark.feature("model is optional")
def test_without_a_model_the_awake_one_answers(home: GatewayHome, http: httpx2.Client) -> None:
    assert home.load("second").status_code == 200
    starts = home.starts("second")
    assert generated(http, prompt="Say hi")["text"]
    assert home.state("second") == "awake"
    assert home.starts("second") == starts


def test_it_switches_and_tells_a_stream_that_it_waits(
    home: GatewayHome, http: httpx2.Client
) -> None:
    assert home.load("second").status_code == 200
    assert chunks(http, model="first", prompt="Say hi", max_tokens=2)
    assert home.state("first") == "awake"


def test_an_equal_chat_has_been_answered_already(http: httpx2.Client) -> None:
    asked = {"model": "first", "temperature": 0, "max_tokens": 5}
    chat = http.post(CHAT, json={**asked, "messages": MESSAGES})
    again = http.post(GENERATE, json={"prompt": "Say hi", **asked})
    assert (chat.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert again.json()["text"] == chat.json()["choices"][0]["message"]["content"]
    streamed = chunks(http, prompt="Say hi", **asked)
    assert "".join(each["text"] for each in streamed) == again.json()["text"]
    assert streamed[-1]["finish_reason"] == "length"


def test_the_engine_is_asked_for_a_chat(http: httpx2.Client) -> None:
    images = [GOOD["GIF"], PNG64]
    asked = {"model": "echo", "prompt": "What is this?", "images": images, "top_p": 0.5, "new": [1]}
    reached = orjson.loads(base64.b64decode(generated(http, **asked)["text"]))
    parts = [{"type": "text", "text": "What is this?"}] + [
        {"type": "image_url", "image_url": {"url": url}} for url in (GOOD["GIF"], GOOD["PNG"])
    ]
    assert reached == {
        "model": "echo",
        "max_tokens": 4,
        "top_p": 0.5,
        "new": [1],
        "messages": [{"role": "user", "content": parts}],
    }


@pytest.mark.feature("alias of chat")
def test_the_alias_is_the_chat(http: httpx2.Client) -> None:
    body = b'{"model": "echo",  "messages": [], "x": 1.50}'
    answer = http.post(ALIAS, content=body, headers={"content-type": "application/json"})
    assert recorded(answer)[0] == body
    assert answer.json()["path"] == CHAT
    asked = {"model": "first", "messages": MESSAGES, "max_tokens": 2, "stream": True}
    with http.stream("POST", ALIAS, json=asked) as response:
        assert b"chat.completion.chunk" in response.read()


# What is refused, in the shape of OpenAI's errors


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "prompt", "Give either prompt or messages."),
        ({"prompt": "a", "messages": MESSAGES}, "prompt", "Give either prompt or messages."),
        ({"prompt": ["a"]}, "prompt", 'prompt must be a string, not ["a"]'),
        ({"messages": "a"}, "messages", "messages must be a list"),
        ({"prompt": "a", "n": 2}, "n", "answers with one text"),
        ({"prompt": "a", "stream": "yes"}, "stream", "stream must be true or false"),
        ({"prompt": "a", "model": 5}, "model", "model must be a string"),
        ({"prompt": "a", "images": ["cat.png"]}, "messages[0].images[0]", "neither a URL nor"),
        ({"prompt": "a", "images": [5]}, "messages[0].images[0]", "must be a string"),
        ({"prompt": "a", "images": ["http://x.example/a.png"]}, None, "are not fetched from"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    http: httpx2.Client, body: dict[str, Any], param: str | None, says: str
) -> None:
    error = error_of(http.post(GENERATE, json={"model": "first", **body}), 400, "invalid_request")
    assert says in error["message"]
    assert error["param"] == param


def test_a_body_that_is_no_json_and_one_that_is_too_deep(http: httpx2.Client) -> None:
    headers = {"content-type": "application/json"}
    for body in (b"{", b"[]", b'{"prompt": NaN}', b'{"prompt": "a", "x": ' + b"[" * 2000):
        error_of(http.post(GENERATE, content=body, headers=headers), 400, "invalid_json")


def test_keys_and_models_are_those_of_the_chat(home: GatewayHome, http: httpx2.Client) -> None:
    error_of(home.post(GENERATE, {"prompt": "a"}), 401, "invalid_api_key")
    error_of(http.post(GENERATE, json={"model": "nobody", "prompt": "a"}), 404, "model_not_found")
    error = error_of(
        http.post(GENERATE, json={"model": "embedder", "prompt": "a"}), 400, "unsupported_by_model"
    )
    assert "cannot do chat" in error["message"]
    assert http.get(GENERATE).headers["allow"] == "POST"


def test_a_stream_that_breaks_ends_in_an_error(http: httpx2.Client) -> None:
    *_, last = events(http, model="brittle", prompt="Say hi", max_tokens=50)
    assert orjson.loads(last)["error"]["code"] in {"engine_error", "engine_gone"}
