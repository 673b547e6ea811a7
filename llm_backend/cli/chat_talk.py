"""A chat at work: reads, asks, shows, and goes on whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from llm_backend.cli.asking import Answer, ask
from llm_backend.cli.chat_commands import COMMANDS, Ended, obey
from llm_backend.cli.chat_lines import CommandCompleter, Lines, PipedLines, TypedLines
from llm_backend.cli.chat_screen import MarkdownScreen, PlainScreen, Screen
from llm_backend.cli.conversation import Conversation
from llm_backend.cli.door import Door
from llm_backend.cli.project import Project
from llm_backend.cli.switch import MARGIN_S, load_named, switch_deadline_s
from llm_backend.cli.terminal import Terminal
from llm_backend.errors import LLMBackendError

HISTORY = "chat.history"
"""Holds, in the state directory, what was typed."""
GREETING = "/help lists the commands; exit or Ctrl-D ends."
STOPPED = "Stopped. To end the chat: exit, or Ctrl-D."


class Chat:
    """One chat.

    Args:
        terminal: Where to write.
        way: The way to the gateway.
        model: Whom to ask; None asks whoever is awake, and stays with it.
        conversation: What was said so far.

    Attributes:
        params: Other fields of every request.
    """

    def __init__(
        self, terminal: Terminal, way: Door, model: str | None, conversation: Conversation
    ) -> None:
        self.terminal = terminal
        self.conversation = conversation
        self.model = model
        self.params: dict[str, float] = {}
        self._way = way
        self._models: list[str] = []
        self._lines, self._screen = self._ways_in_and_out()

    def _ways_in_and_out(self) -> tuple[Lines, Screen]:
        if not self.terminal.interactive:
            return PipedLines(), PlainScreen(self.terminal)
        completer = CommandCompleter(tuple(COMMANDS), lambda: self._models)
        lines = TypedLines(self._project.state_dir / HISTORY, completer)
        dumb = self.terminal.out.is_dumb_terminal
        return lines, PlainScreen(self.terminal) if dumb else MarkdownScreen(self.terminal)

    @property
    def _project(self) -> Project:
        return self._way.project

    def run(self) -> int:
        """Talk until the person ends it; return how many requests failed."""
        failed = 0
        untold: str | LLMBackendError = GREETING if self.terminal.interactive else ""
        if self.terminal.interactive:
            self._models = self.models()
        while True:
            try:
                # Told in here, so that a second Ctrl-C ends no more than the first.
                self._tell(untold)
                untold = ""
                self._take(self._lines.read())
            except (EOFError, Ended):
                return failed
            except LLMBackendError as error:
                failed, untold = failed + 1, error
            except KeyboardInterrupt:
                if not self.terminal.interactive:
                    raise
                untold = STOPPED

    def _tell(self, what: str | LLMBackendError) -> None:
        if isinstance(what, LLMBackendError):
            self.terminal.error(what)
        elif what:
            self.terminal.note(what, style="dim")

    def _take(self, text: str) -> None:
        if text.strip() and not obey(self, text.strip()):
            self.conversation.ask(text)
            self.answer()

    def answer(self) -> None:
        """Have the last question answered; what came before a Ctrl-C is kept."""
        answer = Answer()
        client = self._way.client()
        named = {} if self.model is None else {"model": self.model}
        params = {**named, **self.params}
        try:
            with self._screen.answering(self.model or "gateway") as shown:
                messages = self.conversation.messages
                asyncio.run(ask(client, messages, answer, shown.add, shown.wait, **params))
        finally:
            self.model = self.model or answer.model or None
            if answer.text:
                self.conversation.answer(answer.text, answer.model)
        if answer.finish_reason == "length":
            self.terminal.note("The answer was cut off: it is as long as allowed.", style="dim")

    def change_model(self, name: str) -> None:
        """Make another model the one that answers, and show how it comes.

        Raises:
            LLMBackendError: it cannot be loaded; the one before goes on.
        """
        if self._way.is_remote:
            self.model = name
            self.terminal.note(f"{name} is asked from now on.", style="dim")
            return
        spec = self._project.catalog.find(name)
        settings = self._project.settings
        deadline_s = (
            settings.limits.queue_timeout_s + MARGIN_S
            if spec is None
            else switch_deadline_s(settings, spec)
        )
        known = name if spec is None else spec.id
        body = load_named(self.terminal, self._project, self._way.record, known, deadline_s)
        self.model = str(body.get("model", known))
        self.terminal.note(f"{self.model} answers from now on.", style="dim")

    def models(self) -> list[str]:
        """Return the ids of the models that can be asked for; empty where nobody says."""
        with suppress(LLMBackendError):
            return [model.id for model in asyncio.run(self._way.client().models())]
        return []
