"""A streamed answer as typed events: its tool calls put together, its waits told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from llm_backend.client.results import ChatChunk, ChunkChoice, Message, ToolCall, Usage
from llm_backend.client.stream import Part, Stream
from llm_backend.wire import JSONObject


@dataclass(frozen=True, slots=True)
class WaitEvent:
    """The request waits; `text` says for what, such as `loading qwen-14b, about 12 s left`."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningEvent:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class TextEvent:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A tool call, whole."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """The tokens that the request took."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The end of the answer; the last event.

    Attributes:
        finish_reason: `stop`, `length`, `tool_calls` or another word of the engine.
        message: The whole answer; `to_dict()` of it may go back into `messages`.
    """

    finish_reason: str | None
    message: Message


StreamEvent = WaitEvent | ReasoningEvent | TextEvent | ToolCallEvent | UsageEvent | DoneEvent


class EventStream(Stream[StreamEvent]):
    """The events of one answer, as they come; see `Stream`.

    Example:
        async for event in client.events("What is the weather in Pskov?", tools=tools):
            match event:
                case TextEvent(text):
                    print(text, end="", flush=True)
                case ToolCallEvent(call):
                    print(call.name, call.arguments)
    """


async def read_events(parts: AsyncGenerator[Part, None]) -> AsyncGenerator[StreamEvent, None]:
    """Turn the parts of a stream into events."""
    answer = _Answer()
    async with aclosing(parts):
        async for part in parts:
            for event in answer.take(part):
                yield event
    for event in answer.end():
        yield event


@dataclass(slots=True)
class _CallParts:
    """A tool call as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, delta: ToolCall) -> None:
        self.id = self.id or delta.id
        self.name += delta.function.name
        self.arguments += delta.function.arguments

    def object(self, index: int) -> JSONObject:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "index": index, "type": "function", "function": function}


@dataclass(slots=True)
class _Answer:
    """Puts the first choice of a stream together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_CallParts] = field(default_factory=list)
    numbers: dict[int, _CallParts] = field(default_factory=dict)
    finish_reason: str | None = None

    def take(self, part: Part) -> Iterator[StreamEvent]:
        """Yield what a part of the stream says."""
        if not isinstance(part, ChatChunk):
            yield WaitEvent(part.text)
            return
        for choice in part.choices:
            if choice.index == 0:
                yield from self._take_choice(choice)
        if part.usage is not None:
            yield UsageEvent(part.usage)

    def _take_choice(self, choice: ChunkChoice) -> Iterator[StreamEvent]:
        delta = choice.delta
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
            yield ReasoningEvent(delta.reasoning)
        if delta.content:
            self.text.append(delta.content)
            yield TextEvent(delta.content)
        for call in delta.tool_calls:
            self._call(call).add(call)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            yield from map(ToolCallEvent, self.message().tool_calls)

    def _call(self, delta: ToolCall) -> _CallParts:
        known = self.numbers.get(delta.index)
        # Engines that send whole calls may number them all 0: a new id is a new call.
        if known is None or (delta.id and known.id and delta.id != known.id):
            known = self.numbers[delta.index] = _CallParts()
            self.calls.append(known)
        return known

    def message(self) -> Message:
        """Return the answer so far."""
        whole: JSONObject = {"role": "assistant", "content": "".join(self.text) or None}
        if self.reasoning:
            whole["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            whole["tool_calls"] = [call.object(i) for i, call in enumerate(self.calls)]
        return Message(whole)

    def end(self) -> Iterator[StreamEvent]:
        """Yield the last event."""
        yield DoneEvent(self.finish_reason, self.message())
