"""The blocking client: the async one, run on a thread of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from llm_backend.client.batch import OnProgress, Outcome
from llm_backend.client.client import LLMClient
from llm_backend.client.events import StreamEvent
from llm_backend.client.messages import Messages
from llm_backend.client.portal import Portal
from llm_backend.client.results import (
    ChatChunk,
    ChatCompletion,
    Health,
    Model,
    Status,
    SwitchResult,
)
from llm_backend.client.schema import M, Schema
from llm_backend.client.stream import OnWait, Stream
from llm_backend.client.transport import Headers
from llm_backend.wire import JSONObject

Item = TypeVar("Item")


class SyncStream(Generic[Item]):
    """Items of one answer, as they come.

    The request is sent when the first one is asked for. Iterate to the end, or use it as a
    context manager, which closes the connection when left early; the engine then stops.
    """

    def __init__(self, stream: Stream[Item], portal: Portal) -> None:
        self._stream = stream
        self._portal = portal
        self._is_over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        item = None if self._is_over else self._portal.call(self._next())
        if item is None:
            self._is_over = True
            raise StopIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _next(self) -> Item | None:
        async for item in self._stream:
            return item
        return None

    def close(self) -> None:
        """Close the connection, wherever the answer is."""
        if not self._is_over:
            self._is_over = True
            self._portal.call(self._stream.close())


class LLMClientSync:
    """The blocking client of the gateway: the methods of `LLMClient`, without `await`.

    For scripts, threads and notebooks: it may be used by many threads at once, and where an
    event loop runs already. A thread of its own keeps the connections; it starts with the first
    call and ends with `close`, with the `with` block, or with the program. Callbacks are called
    on that thread.

    Example:
        with LLMClientSync() as client:
            print(client.generate("What is two and two?"))

    Args:
        base_url: Address of the gateway; as for `LLMClient`.
        api_key: Key to send; as for `LLMClient`.
        timeout_s: The longest that a call may take, in seconds; as for `LLMClient`.
        max_retries: How many times a request is sent again; as for `LLMClient`.

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
    ) -> None:
        self._client = LLMClient(base_url, api_key, timeout_s=timeout_s, max_retries=max_retries)
        self._portal = Portal(self._client)

    def __repr__(self) -> str:
        return repr(self._client).replace("LLMClient", "LLMClientSync", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; a later call starts anew."""
        self._portal.close()

    def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> ChatCompletion:
        """Ask for a whole answer; see `LLMClient.chat`."""
        return self._portal.call(
            self._client.chat(messages, model, extra_headers=extra_headers, **params)
        )

    def stream(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        on_wait: OnWait | None = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> SyncStream[ChatChunk]:
        """Ask for an answer in chunks, as the model writes it; see `LLMClient.stream`."""
        stream = self._client.stream(
            messages, model, on_wait=on_wait, extra_headers=extra_headers, **params
        )
        return SyncStream(stream, self._portal)

    def events(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> SyncStream[StreamEvent]:
        """Ask for an answer in typed events; see `LLMClient.events`."""
        stream = self._client.events(messages, model, extra_headers=extra_headers, **params)
        return SyncStream(stream, self._portal)

    def generate(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> str:
        """Ask for a whole answer and return its text; see `LLMClient.generate`."""
        return self._portal.call(
            self._client.generate(messages, model, extra_headers=extra_headers, **params)
        )

    @overload
    def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: type[M],
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> M: ...

    @overload
    def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: Mapping[str, Any],
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> Any: ...

    @overload
    def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: None = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> JSONObject: ...

    def generate_structured(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        schema: Schema = None,
        extra_headers: Headers | None = None,
        **params: Any,
    ) -> Any:
        """Ask for an answer of a given shape; see `LLMClient.generate_structured`."""
        params = {"schema": schema, "extra_headers": extra_headers, **params}
        asked: Coroutine[Any, Any, Any] = self._client.generate_structured(
            messages, model, **params
        )
        return self._portal.call(asked)

    @overload
    def batch(
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
    def batch(
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
    def batch(
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

    def batch(
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
        """Ask for many answers, a few at a time; see `LLMClient.batch`."""
        params = {
            "schema": schema,
            "concurrency": concurrency,
            "low_priority": low_priority,
            "on_progress": on_progress,
            **params,
        }
        asked: Coroutine[Any, Any, list[Outcome[Any]]] = self._client.batch(
            prompts, model, **params
        )
        return self._portal.call(asked)

    def health_check(self) -> Health:
        """Return how the gateway fares; see `LLMClient.health_check`."""
        return self._portal.call(self._client.health_check())

    def models(self) -> list[Model]:
        """Return the models that can be asked for."""
        return self._portal.call(self._client.models())

    def switch(self, model: str, *, wait: bool = True) -> SwitchResult:
        """Make a model the awake one; see `LLMClient.switch`."""
        return self._portal.call(self._client.switch(model, wait=wait))

    def status(self) -> Status:
        """Return what the gateway is doing: the awake model, the switch, the queue."""
        return self._portal.call(self._client.status())
