"""Answers of a given shape: asked for, checked, and mended once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from llm_backend.client.results import ChatCompletion
from llm_backend.client.schema import Shape
from llm_backend.errors import InvalidRequest, StructuredOutputInvalid
from llm_backend.wire import JSONObject

T = TypeVar("T")

Chat = Callable[[list[JSONObject], JSONObject], Awaitable[ChatCompletion]]
"""Asks the model: messages, and the other fields of the request."""

MORE_ROOM: Final = 4
"""An answer that was cut off is asked for once more, with so many times the tokens."""

_LIMITS: Final = ("max_tokens", "max_completion_tokens")


async def ask(chat: Chat, messages: list[JSONObject], shape: Shape[T], params: JSONObject) -> T:
    """Ask until the answer has its shape: at most once more for room, and once to mend it.

    Raises:
        StructuredOutputInvalid: it has not, also after that; says what is wrong with it.
        LLMBackendError: the request failed.
    """
    return await _Talk(chat, shape, {"response_format": shape.response_format, **params}).run(
        with_instruction(messages, shape.instruction)
    )


def with_instruction(messages: list[JSONObject], instruction: str) -> list[JSONObject]:
    """Return the messages with an instruction at the head of the last one of the user.

    Not as a system message: some chat templates take none, some only one. At the head, because
    what many requests begin with is computed once by an engine that caches prefixes.
    """
    for place in reversed(range(len(messages))):
        message = messages[place]
        if message.get("role") == "user":
            told = {**message, "content": _headed(message.get("content"), instruction)}
            return [*messages[:place], told, *messages[place + 1 :]]
    return [*messages, {"role": "user", "content": instruction}]


def _headed(content: Any, instruction: str) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": instruction}, *content]
    return f"{instruction}\n\n{content}" if content else instruction


class _Talk(Generic[T]):
    """One question, with what is left of its second chances."""

    def __init__(self, chat: Chat, shape: Shape[T], params: JSONObject) -> None:
        self._chat = chat
        self._shape = shape
        self._params = params
        self._may_grow = True

    async def run(self, messages: list[JSONObject]) -> T:
        text = await self._ask(messages)
        try:
            return self._shape.read(text)
        except StructuredOutputInvalid as problem:
            wrong = problem
        text = await self._ask([*messages, *_objection(text, wrong)])
        try:
            return self._shape.read(text)
        except StructuredOutputInvalid as problem:
            problem.add_note(f"It was asked to mend its first answer: {wrong.message}")
            raise

    async def _ask(self, messages: list[JSONObject]) -> str:
        """Return a whole answer.

        Raises:
            StructuredOutputInvalid: it was cut off, also with more room.
        """
        answer = await self._chat(messages, self._params)
        if _is_cut(answer) and self._grow():
            try:
                answer = await self._chat(messages, self._params)
            except InvalidRequest as error:  # the model's context has not that much room
                raise self._cut_off(answer) from error
        if _is_cut(answer):
            raise self._cut_off(answer)
        return answer.text

    def _grow(self) -> bool:
        """Give the answer more room, once; return whether there is more."""
        limits = {k: v * MORE_ROOM for k in _LIMITS if (v := self._params.get(k))}
        has_more, self._may_grow = self._may_grow and bool(limits), False
        if has_more:
            self._params = {**self._params, **limits}
        return has_more

    def _cut_off(self, answer: ChatCompletion) -> StructuredOutputInvalid:
        limit = next((f"{k} {self._params[k]}" for k in _LIMITS if self._params.get(k)), None)
        return StructuredOutputInvalid(
            f"The answer was cut off after {len(answer.text)} characters by "
            f"{limit or 'the context of the model'}.",
            answer=answer.text,
            hint="Ask for less, bound the strings of the schema (maxLength), or "
            + ("raise the limit." if limit else "set max_tokens."),
        )


def _is_cut(answer: ChatCompletion) -> bool:
    return answer.choices[0].finish_reason == "length"


def _objection(text: str, problem: StructuredOutputInvalid) -> list[JSONObject]:
    request = f"That is wrong. {problem.message}\nAnswer again, with the corrected JSON only."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": request}]
