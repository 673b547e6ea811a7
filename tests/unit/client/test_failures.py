"""Every error of the tree crosses HTTP and comes out as itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_backend import (
    ConnectionFailed,
    EngineBroke,
    InternalError,
    InvalidKey,
    InvalidRequest,
    LLMBackendError,
    LLMClient,
    ModelNotFound,
    NotFound,
    Overloaded,
    RequestError,
    ServiceError,
)
from llm_backend.wire import error_object, retry_after

from .server import Reply, Server, refusal, reply

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"


def over_http(root: type[LLMBackendError]) -> Iterator[type[LLMBackendError]]:
    for child in root.__subclasses__():
        yield child
        yield from over_http(child)


@pytest.fixture
def client(server: Server) -> LLMClient:
    return LLMClient(server.url, max_retries=0)


@pytest.mark.parametrize("kind", [*over_http(RequestError), *over_http(ServiceError)])
async def test_an_error_of_the_gateway_arrives_as_itself(
    server: Server, client: LLMClient, kind: type[LLMBackendError]
) -> None:
    sent = kind("It is so.", hint="Do this.", param="model", retry_after_s=6.2)
    wait = retry_after(sent) or ""
    server.script(CHAT, reply(error_object(sent), kind.status, retry_after=wait))
    with pytest.raises(kind) as caught:
        await client.chat("Hi")
    assert type(caught.value) is kind
    assert str(caught.value) == "It is so. Do this."
    assert (caught.value.param, caught.value.retry_after_s) == ("model", 7.0)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, InvalidRequest),
        (400, "something_new", InvalidRequest),
        (401, 401, InvalidKey),
        (404, "nothing_here", NotFound),
        (404, "model_not_found", ModelNotFound),
        (418, None, RequestError),
        (500, None, InternalError),
        (502, None, EngineBroke),
        (503, None, ServiceError),
        (503, "server_is_overloaded", Overloaded),
        (599, None, ServiceError),
    ],
)
async def test_without_a_known_code_the_status_decides(
    server: Server,
    client: LLMClient,
    status: int,
    code: object,
    kind: type[LLMBackendError],
) -> None:
    server.script(CHAT, refusal(status, code, "so"))
    with pytest.raises(kind, match=r"^so$") as caught:
        await client.chat("Hi")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply({"error": "Unauthorized"}, 401), "Unauthorized"),
        (reply({"detail": "Not Found"}, 404), "Not Found"),
        (reply({"object": "error", "message": "bad"}, 400), "bad"),
        (
            reply({"detail": [{"loc": ["body"]}]}, 422),
            'answered 422: {"detail": [{"loc": ["body"]}]}',
        ),
        (
            Reply(502, (b"<html>\n <h1>Bad  Gateway</h1></html>",)),
            "<html> <h1>Bad Gateway</h1></html>",
        ),
        (Reply(503, (b"x" * 500,)), "x" * 200 + "…"),
        (Reply(503, (b"\xff",)), "answered 503: \ufffd"),
        (Reply(503), "/v1/chat/completions answered 503."),
    ],
)
async def test_whatever_a_server_says_is_shown(
    server: Server, client: LLMClient, answer: Reply, message: str
) -> None:
    server.script(CHAT, answer)
    with pytest.raises(LLMBackendError) as caught:
        await client.chat("Hi")
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("0.5", 0.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
async def test_retry_after_is_seconds_or_a_date(
    server: Server, client: LLMClient, value: str, seconds: float | None
) -> None:
    server.script(CHAT, refusal(503, retry_after=value))
    with pytest.raises(ServiceError) as caught:
        await client.chat("Hi")
    assert caught.value.retry_after_s == seconds


async def test_a_date_to_come_is_counted_from_now(server: Server, client: LLMClient) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.script(CHAT, refusal(503, retry_after=date))
    with pytest.raises(ServiceError) as caught:
        await client.chat("Hi")
    assert caught.value.retry_after_s is not None
    assert 3000 < caught.value.retry_after_s <= 3600


async def test_no_answer_names_the_address_and_the_next_command(refused: str) -> None:
    with pytest.raises(ConnectionFailed, match="llm-backend start") as caught:
        await LLMClient(refused, max_retries=0).chat("Hi")
    assert f"Nothing answers at {refused}" in str(caught.value)
    assert caught.value.__cause__ is not None
