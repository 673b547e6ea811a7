"""One question to a model, and its answer as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from llm_backend.cli.terminal import Report, Terminal, printable
from llm_backend.client import ChatChunk, ChatCompletion, LLMClient
from llm_backend.client.messages import Messages
from llm_backend.wire import JSONObject


@dataclass(slots=True)
class Answer:
    """What has come of an answer.

    Attributes:
        text: What the model said so far.
        model: Who said it.
        finish_reason: Why it ended; None while it has not.
        usage: Tokens that the request took; None where nobody said.
    """

    text: str = ""
    model: str = ""
    finish_reason: str | None = None
    usage: JSONObject | None = None

    def add(self, chunk: ChatChunk) -> None:
        """Take in the next chunk."""
        self.text += chunk.text
        self.model = chunk.model or self.model
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage is not None:
            self.usage = dict(chunk.usage)

    def restart(self) -> None:
        """Forget what came: the question is asked again."""
        self.text, self.finish_reason, self.usage = "", None, None

    @property
    def completion(self) -> ChatCompletion:
        """As the API has a whole answer."""
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return ChatCompletion({"model": self.model, "choices": [choice]})


async def ask(
    client: LLMClient,
    messages: Messages,
    answer: Answer,
    on_text: Callable[[str], None],
    on_wait: Callable[[str], None],
    **params: Any,
) -> None:
    """Ask a question.

    Args:
        client: Whom to ask.
        messages: The question, and what was said before.
        answer: Filled as the answer comes; whoever is interrupted keeps what came.
        on_text: Told each piece of the text.
        on_wait: Told what the question waits for.
        params: Other fields of the request.

    Raises:
        LLMBackendError: what the gateway said, or that it did not answer.
    """
    wanted = {"stream_options": {"include_usage": True}, **params}
    async with client.stream(messages, on_wait=on_wait, **wanted) as chunks:
        async for chunk in chunks:
            answer.add(chunk)
            if chunk.text:
                on_text(chunk.text)


def for_output(text: str) -> str:
    """Return what a model wrote as standard output gets it: no commands to a terminal."""
    return printable(text) if sys.stdout.isatty() else text


class Waiting:
    """Shows what a question waits for, until it is over. Use as a context manager.

    Args:
        terminal: Where to show it: on standard error.
        title: Who is waited for.
    """

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._title = title
        self._stack = ExitStack()
        self._report: Report | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over()

    def say(self, text: str) -> None:
        """Show another reason to wait."""
        if self._report is None:
            self._report = self._stack.enter_context(self._terminal.progress(self._title))
        self._report(text)

    def over(self) -> None:
        """Take away what is shown."""
        self._stack.close()
        self._report = None
