"""Asking for answers: whole, streamed, of a given shape, many at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeVar, overload
from weakref import WeakSet

import httpx2

from llm_backend.client.batch import LOW_PRIORITY, OnProgress, Outcome, run_batch
from llm_backend.client.events import EventStream, read_events
from llm_backend.client.failures import malformed, parse
from llm_backend.client.messages import Messages, as_list
from llm_backend.client.results import ChatCompletion
from llm_backend.client.schema import M, Schema, shape_of
from llm_backend.client.stream import ChatStream, OnWait, Part, Stream, read_chunks, read_parts
from llm_backend.client.structured import ask
from llm_backend.client.transport import Headers, Request
from llm_backend.errors import ConfigError, InvalidRequest
from llm_backend.wire import JSONObject, encode

S = TypeVar("S", bound=Stream[Any])

_CHAT: Final = "/v1/chat/completions"


class Sender(Protocol):
    """What brings requests to an engine and answers back; `Transport` is one."""

    async def call(self, request: Request) -> httpx2.Response:
        """Return the whole answer to a request."""
        ...

    def open(self, request: Request) -> AbstractAsyncContextManager[httpx2.Response]:
        """Yield an answer whose body is still to be read."""
        ...


class ChatClient:
    """Asks for answers; `LLMClient` adds what the gateway has beside.

    Args:
        sender: Brings the requests to an engine.
        timeout_s: The longest that a call may take, in seconds.

    Raises:
        ConfigError: `timeout_s` is not above 0.
    """

    def __init__(self, sender: Sender, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0, not {timeout_s!r}.")
        self._sender = sender
        self._timeout_s = timeout_s
        self._streams: WeakSet[Stream[Any]] = WeakSet()

    async def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> ChatCompletion:
        """Ask for a whole answer.

        Args:
            messages: A text, or messages as the API has them.
            model: Id or alias; by default the awake model, else the catalog's default.
            extra_headers: Sent beside the client's own.
            params: Other fields of the request, such as `temperature`, `max_tokens` or `tools`.

        Example:
            answer = await client.chat("Name a prime.", temperature=0)
            answer.choices[0].message.content == answer["choices"][0]["message"]["content"]

        Raises:
            LLMBackendError: what the server said, by its code.
            ConnectionFailed: no answer came.
        """
        if params.get("stream"):
            raise InvalidRequest(
                "chat() returns one whole answer, so stream=True is not for it.",
                hint="Call stream() instead.",
                param="stream",
            )
        body = _chat_body(messages, model, params)
        response = await self._post(_CHAT, body, extra_headers)
        completion = parse(ChatCompletion, response.content, response)
        if not completion.choices:
            raise malformed(response, "a ChatCompletion", "choices is empty.")
        return completion

    def stream(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        on_wait: OnWait | None = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> ChatStream:
        """Ask for an answer in chunks, as the model writes it.

        The request is sent when the first chunk is asked for. Once a stream is open nothing is
        repeated: one that breaks, or ends without saying so, raises.

        Args:
            messages: A text, or messages as the API has them.
            model: Id or alias; by default the awake model, else the catalog's default.
            on_wait: Told what the request waits for before the first chunk, such as
                `loading qwen-14b, about 12 s left`.
            extra_headers: Sent beside the client's own.
            params: Other fields of the request.

        Example:
            async for chunk in client.stream("Tell me a story.", on_wait=print):
                print(chunk.text, end="", flush=True)

        Raises (while iterating):
            LLMBackendError: what the server said, by its code.
            ConnectionFailed: no answer came, or not all of it.
        """
        parts = self._parts(messages, model, params, extra_headers)
        return self._known(ChatStream(read_chunks(parts, on_wait)))

    def events(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> EventStream:
        """Ask for an answer in typed events, as the model writes it; takes what `stream` takes.

        Waits, thoughts, text, whole tool calls, usage, and at last the whole answer.

        Example:
            async for event in client.events("Tell me a story."):
                match event:
                    case TextEvent(text):
                        print(text, end="", flush=True)
                    case DoneEvent(reason, message):
                        print(reason, message.content)

        Raises (while iterating):
            LLMBackendError: what the server said, by its code.
            ConnectionFailed: no answer came, or not all of it.
        """
        params = {"stream_options": {"include_usage": True}, **params}
        parts = self._parts(messages, model, params, extra_headers)
        return self._known(EventStream(read_events(parts)))

    async def generate(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> str:
        """Ask for a whole answer and return its text; takes what `chat` takes.

        Example:
            print(await client.generate("What is two and two?"))
        """
        return (await self.chat(messages, model, extra_headers=extra_headers, **params)).text

    @overload
    async def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: type[M],
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> M: ...

    @overload
    async def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: Mapping[str, Any],
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> Any: ...

    @overload
    async def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: None = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> JSONObject: ...

    async def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: Schema = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> Any:
        """Ask for an answer of a given shape, at temperature 0 unless another one is given.

        The engine is told to write nothing else. The answer is checked all the same; one that is
        wrong is sent back once with what is wrong, and one that `max_tokens` cut off is asked for
        once more with four times as many. Missing fields that may be null are null.

        Args:
            messages: A text, or messages as the API has them.
            model: Id or alias; by default the awake model, else the catalog's default.
            schema: A pydantic model, whose instance is returned; a JSON schema; or None for any
                JSON object.
            extra_headers: Sent beside the client's own.
            params: Other fields of the request.

        Example:
            visit = await client.generate_structured(letter, schema=Visit)
            print(visit.name, visit.phone)

        Raises:
            StructuredOutputInvalid: the answer has not that shape, also after a second try.
            InvalidRequest: `schema` is none.
            LLMBackendError: what the server said, by its code.
        """

        async def chat(messages: list[JSONObject], fields: JSONObject) -> ChatCompletion:
            return await self.chat(messages, model, extra_headers=extra_headers, **fields)

        return await ask(chat, as_list(messages), shape_of(schema), {"temperature": 0, **params})

    @overload
    async def batch(
        self,
        prompts: Iterable[Messages],
        model: str | None = None,
        *,
        schema: type[M],
        concurrency: int = 8,
        low_priority: bool = False,
        on_progress: OnProgress | None = None,
        **params: Any,
    ) -> list[Outcome[M]]: ...

    @overload
    async def batch(
        self,
        prompts: Iterable[Messages],
        model: str | None = None,
        *,
        schema: Mapping[str, Any],
        concurrency: int = 8,
        low_priority: bool = False,
        on_progress: OnProgress | None = None,
        **params: Any,
    ) -> list[Outcome[Any]]: ...

    @overload
    async def batch(
        self,
        prompts: Iterable[Messages],
        model: str | None = None,
        *,
        schema: None = None,
        concurrency: int = 8,
        low_priority: bool = False,
        on_progress: OnProgress | None = None,
        **params: Any,
    ) -> list[Outcome[str]]: ...

    async def batch(
        self,
        prompts: Iterable[Messages],
        model: str | None = None,
        *,
        schema: Schema = None,
        concurrency: int = 8,
        low_priority: bool = False,
        on_progress: OnProgress | None = None,
        **params: Any,
    ) -> list[Outcome[Any]]:
        """Ask for many answers, a few at a time; one that fails loses none of the others.

        Args:
            prompts: What `generate` takes, many times.
            model: Id or alias; by default the awake model, else the catalog's default.
            schema: As for `generate_structured`; None asks for text.
            concurrency: How many requests are under way at once.
            low_priority: Let all others go first: the gateway serves such requests while nobody
                else wants the device.
            on_progress: Told after each request how many are done, and how many there are.
            params: Other fields of each request.

        Returns:
            What became of each prompt, in their order.

        Example:
            for outcome in await client.batch(letters, schema=Visit):
                print(outcome.value or outcome.error)

        Raises:
            ConfigError: `concurrency` is below 1.
            InvalidRequest: `schema` is none, or `prompts` is one text.
        """
        if isinstance(prompts, str):  # else each of its letters would be a prompt
            raise InvalidRequest("prompts must be a list of prompts, not one text.")
        if schema is not None:
            shape_of(schema)  # a wrong one fails here, not once for each prompt
        if low_priority:
            params["extra_headers"] = {**(params.get("extra_headers") or {}), **LOW_PRIORITY}

        async def one(prompt: Messages) -> Any:
            if schema is None:
                return await self.generate(prompt, model, **params)
            return await self.generate_structured(prompt, model, schema=schema, **params)

        return await run_batch(one, prompts, concurrency, on_progress)

    async def _post(
        self, path: str, body: JSONObject, headers: Headers | None = None
    ) -> httpx2.Response:
        request = Request("POST", path, self._timeout_s, encode(body), headers or {})
        return await self._sender.call(request)

    def _known(self, stream: S) -> S:
        self._streams.add(stream)
        return stream

    async def _break_off(self) -> None:
        """Break off the streams that are open and left alone; each holds its engine."""
        for stream in list(self._streams):
            await stream.break_off()

    def _parts(
        self, messages: Messages, model: str | None, params: JSONObject, headers: Headers | None
    ) -> AsyncGenerator[Part, None]:
        body = _chat_body(messages, model, {**params, "stream": True})
        request = Request("POST", _CHAT, self._timeout_s, encode(body), headers or {})
        return read_parts(self._sender.open(request), self._timeout_s)


def _chat_body(messages: Messages, model: str | None, params: JSONObject) -> JSONObject:
    named = {} if model is None else {"model": model}
    return {**named, "messages": as_list(messages), **params}
