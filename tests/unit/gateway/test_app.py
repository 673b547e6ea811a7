"""The shell around pipeline and routes: whatever fails, the client gets one error of our shape."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_backend.errors import DeviceBusy
from llm_backend.gateway.app import Gateway, build_api
from llm_backend.gateway.exchange import CONNECTION
from llm_backend.gateway.guard import Guard

pytestmark = pytest.mark.anyio

GUARD = Guard(hosts=[], origins=[], max_headers=50, max_header_bytes=4096)


class Connection:
    """One that leaves every answer to `send`."""

    is_lost = False
    on_lost = None

    def answer(self, *_: object) -> bool:
        return False


class Broken:
    """Services that fail on every use."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class BrokenPipeline:
    async def run(self, *_: object) -> None:
        raise ZeroDivisionError


async def ask(
    api: ASGIApp, path: str, method: str = "GET", told: list[str] | None = None
) -> list[Any]:
    sent: list[Any] = []
    refused = [].append if told is None else told.append

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "extensions": {CONNECTION: Connection()},
    }
    await Gateway(GUARD, BrokenPipeline(), api, refused)(scope, receive, send)  # type: ignore[arg-type]  # broken on purpose
    return sent


def shown(sent: list[Any]) -> tuple[int, str, str]:
    """Return status, code and message of an answer."""
    assert dict(sent[0]["headers"])[b"x-request-id"]
    body = b"".join(message["body"] for message in sent[1:])
    error = orjson.loads(body)["error"]
    return sent[0]["status"], error["code"], error["message"]


@pytest.mark.parametrize("path", ["/health", "/status", "/metrics", "/v1/models"])
async def test_a_defect_of_a_route_is_a_500_of_our_shape(path: str) -> None:
    status, code, message = shown(await ask(build_api(Broken()), path))  # type: ignore[arg-type]  # broken on purpose
    assert (status, code) == (500, "internal_error")
    assert "ZeroDivisionError" not in message
    assert "x-request-id" in message


async def test_a_defect_of_the_pipeline_is_one_too() -> None:
    sent = await ask(PlainTextResponse("unused"), "/v1/embeddings", "POST")
    assert shown(sent)[:2] == (500, "internal_error")


async def test_a_route_that_breaks_off_amid_its_answer_breaks_the_connection() -> None:
    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    with pytest.raises(Exception, match="defect of its own"):
        await ask(api, "/logs/a")


async def test_an_error_of_the_tree_is_the_answer() -> None:
    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        raise DeviceBusy("The memory is taken.", retry_after_s=3)

    told: list[str] = []
    sent = await ask(api, "/status", told=told)
    assert shown(sent)[:2] == (503, "gpu_busy")
    assert told == ["gpu_busy"]
    assert dict(sent[0]["headers"])[b"retry-after"] == b"3"
