"""What a person types in a chat: with editing, history and completion, or lines of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT: Final = "> "
MORE: Final = "\\"
"""At the end of a line: the message goes on in the next one."""


class Lines(Protocol):
    """Where messages come from."""

    def read(self) -> str:
        """Return the next message.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C.
        """
        ...


class PipedLines:
    """A message a line, out of a pipe or a file.

    Args:
        stream: Where from; by default standard input.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdin if stream is None else stream

    def read(self) -> str:
        """Return the next message; a backslash at the end of a line joins the next one to it."""
        parts: list[str] = []
        while True:
            line = self._stream.readline()
            if not line and not parts:
                raise EOFError
            text = line.rstrip("\n")
            if not (line and text.endswith(MORE)):
                return "\n".join([*parts, text])
            parts.append(text.removesuffix(MORE))


class TypedLines:
    """Messages typed at a terminal.

    Enter sends; a backslash before it, and pasted text, make more lines.

    Args:
        history: The file that keeps what was typed; made readable for its owner alone. Where it
            cannot be written, what was typed is kept until the chat ends.
        completer: Completes commands and their arguments.
    """

    def __init__(self, history: Path, completer: Completer) -> None:
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=_history(history),
            completer=completer,
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=lambda width, _line, _wrapped: " " * width,
        )

    def read(self) -> str:
        """Return the next message, as the person sent it."""
        return _as_text(self._session.prompt())


class _KeptHistory(FileHistory):
    """A file that holds what was typed; a full disk is no reason to end a chat."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(_as_text(string))


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.open("a+b").close()
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(path)


def _as_text(typed: str) -> str:
    """Return what was typed without the bytes that are no UTF-8, which came as surrogates."""
    return typed.encode("utf-8", "replace").decode()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(MORE):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    return keys


class CommandCompleter(Completer):
    """Completes `/command` and what comes after it.

    Args:
        commands: All commands, with their slashes.
        models: Returns what may come after `/model`.
    """

    def __init__(self, commands: Sequence[str], models: Callable[[], Iterable[str]]) -> None:
        self._commands = commands
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        """Yield what the text before the cursor may become."""
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if not text.startswith("/") or "\n" in text:
            return
        if not space:
            yield from _matching(text, self._commands)
        elif command == "/model":
            yield from _matching(rest, self._models())
        elif command in {"/image", "/save"}:
            yield from self._paths.get_completions(Document(rest), event)


def _matching(beginning: str, words: Iterable[str]) -> Iterator[Completion]:
    for word in words:
        if word.startswith(beginning):
            yield Completion(word, start_position=-len(beginning))
