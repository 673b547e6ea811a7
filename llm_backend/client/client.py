"""The client: a method for each thing that the gateway can be asked."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import httpx2

from llm_backend.client.address import resolve_key, resolve_root
from llm_backend.client.chat import ChatClient
from llm_backend.client.failures import HTTPAnswer, parse
from llm_backend.client.results import Health, Model, Status, SwitchResult
from llm_backend.client.retries import Retries, Sleep
from llm_backend.client.transport import Request, Transport
from llm_backend.client.view import View
from llm_backend.errors import ConfigError, InvalidJSON, LLMBackendError
from llm_backend.wire import decode_object

CONTROL_TIMEOUT_S: Final = 10.0
"""Questions that no engine answers take no longer than this."""


class _ModelList(View):
    data: tuple[Model, ...]


class LLMClient(ChatClient):
    """The async client of the gateway.

    `chat`, `stream`, `generate` and `models` work with any server that speaks the OpenAI API.

    It may be made anywhere, used by many tasks at once and on one event loop after another.
    Without `async with` each call has its own connection and leaves nothing open; inside
    `async with` connections are kept and used again.

    Every failure is one of `llm_backend.errors`: what the server said, or `ConnectionFailed`
    where no answer came. Its `__cause__` is the `HTTPAnswer`, with status and request id.

    Example:
        async with LLMClient() as client:
            answer = await client.chat("What is two and two?", model="qwen-14b")
            print(answer.text)

    Args:
        base_url: Address of the gateway, with or without `/v1`; by default LLM_BASE_URL, then
            http://localhost:7000.
        api_key: Key to send; by default LLM_API_KEY, then none. `switch` needs an admin key.
        timeout_s: The longest that a call may take, in seconds, retries and the wait for a
            model included. Of a stream: until it opens, and then between two signs of life.
        max_retries: How many times a request is sent again after a connection that could not
            be made, and after 408, 429 and 5xx unless the server says that it is of no use.
        sleep: Waits between two tries.

    Raises:
        ConfigError: an argument or variable cannot be used; says which.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if max_retries < 0:
            raise ConfigError(f"max_retries must be 0 or more, not {max_retries!r}.")
        retries = Retries(max_retries, sleep)
        self._transport = Transport(resolve_root(base_url), resolve_key(api_key), retries)
        super().__init__(self._transport, timeout_s)
        self._control_s = min(timeout_s, CONTROL_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"LLMClient({self._transport.root!r})"

    async def __aenter__(self) -> Self:
        await self._transport.hold()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._transport.users == 1:
            await self._break_off()
        await self._transport.release()

    async def close(self) -> None:
        """Close the connections that `async with` keeps; a later call opens new ones."""
        await self._transport.close()

    async def health_check(self) -> Health:
        """Return how the gateway fares; never raises for a gateway that is not well.

        Example:
            health = await client.health_check()
            if not health:
                print(health.reason)
        """
        request = Request("GET", "/health", self._control_s, repeat=False)
        try:
            response = await self._transport.call(request)
            return parse(Health, response.content, response)
        except LLMBackendError as error:
            return _unwell(error)

    async def models(self) -> list[Model]:
        """Return the models that can be asked for.

        Example:
            for model in await client.models():
                print(model.id, model.max_model_len)
        """
        response = await self._get("/v1/models")
        return list(parse(_ModelList, response.content, response).data)

    async def switch(self, model: str, *, wait: bool = True) -> SwitchResult:
        """Make a model the awake one. Needs an admin key.

        Args:
            model: Id or alias.
            wait: Return when it is awake; False returns as soon as the switch is under way.

        Raises:
            ModelNotFound: the catalog has no such model.
            EngineStartFailed: it could not be brought up; the message has the reason.
        """
        response = await self._post("/api/v1/inference/load", {"model": model, "wait": wait})
        return parse(SwitchResult, response.content, response)

    async def status(self) -> Status:
        """Return what the gateway is doing: the awake model, the switch, the queue."""
        response = await self._get("/status")
        return parse(Status, response.content, response)

    async def _get(self, path: str) -> httpx2.Response:
        return await self._transport.call(Request("GET", path, self._control_s))


def _unwell(error: LLMBackendError) -> Health:
    """Return what a gateway said of itself with an error status, else only that it is down."""
    answer = error.__cause__
    with suppress(InvalidJSON, ValueError):
        health = Health(decode_object(answer.body if isinstance(answer, HTTPAnswer) else b""))
        if not health:
            return health
    return Health({"status": "down", "reason": str(error)})
