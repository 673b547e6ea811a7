"""The commands of a chat: `/model NAME` and its like."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from llm_backend.cli.conversation import Conversation
from llm_backend.cli.terminal import Terminal
from llm_backend.client.images import image_part
from llm_backend.errors import InvalidRequest

_COMMAND: Final = re.compile(r"/[a-z]*")
_ENDS: Final = frozenset({"exit", "quit", "/exit", "/quit"})


class Ended(Exception):
    """The person ends the chat."""


class Talk(Protocol):
    """What commands need of a chat."""

    terminal: Terminal
    conversation: Conversation
    model: str | None

    def answer(self) -> None:
        """Have the last question answered."""
        ...

    def change_model(self, name: str) -> None:
        """Make another model the one that answers."""
        ...

    def models(self) -> list[str]:
        """Return the models that can be asked for."""
        ...


def obey(talk: Talk, line: str) -> bool:
    """Run a line if it is a command; return whether it was one.

    Raises:
        Ended: it ends the chat.
        InvalidRequest: there is no such command, or its argument is of no use.
        LLMBackendError: what it wants failed.
    """
    if line in _ENDS:
        raise Ended
    name, _, argument = line.partition(" ")
    if not _COMMAND.fullmatch(name):
        return False
    command = COMMANDS.get(name)
    if command is None:
        raise InvalidRequest(f"There is no command {name!r}.", hint="/help lists them.")
    command(talk, argument.strip())
    return True


def _model(talk: Talk, name: str) -> None:
    """NAME: change the model; without a name, list them."""
    if name:
        talk.change_model(name)
        return
    for model in talk.models():
        mark = "*" if model == talk.model else " "
        talk.terminal.note(f"{mark} {model}")


def _system(talk: Talk, text: str) -> None:
    """TEXT: what the model is told before everything; without a text, show it."""
    if text:
        talk.conversation.system = text
        return
    talk.terminal.note(talk.conversation.system or "The model is told nothing before.")


def _image(talk: Talk, source: str) -> None:
    """PATH: a picture, or its URL, to go with the next message."""
    if not source:
        raise InvalidRequest("No picture is named.", hint="An example: /image cat.png")
    talk.conversation.pictures.append(image_part(source))
    talk.terminal.note("It goes with the next message.", style="dim")


def _save(talk: Talk, name: str) -> None:
    """FILE: write the chat to a file; as messages of the API where it ends in .json."""
    if not name:
        raise InvalidRequest("No file is named.", hint="An example: /save chat.md")
    said = talk.conversation
    as_json = json.dumps({"messages": said.messages}, indent=2, ensure_ascii=False) + "\n"
    try:
        path = Path(name).expanduser()
        with path.open("x", encoding="utf-8") as file:
            file.write(as_json if path.suffix == ".json" else said.as_markdown())
    except FileExistsError:
        raise InvalidRequest(f"{name} is there already.", hint="Name another file.") from None
    # No OSError: the home of an unknown user, a zero byte.
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise InvalidRequest(f"{name!r:.200} cannot be written: {reason}.") from None
    talk.terminal.note(f"Saved to {path}.", style="dim")


def _retry(talk: Talk, _: str) -> None:
    """Ask the last question again."""
    if not talk.conversation.take_back():
        raise InvalidRequest("Nothing has been asked yet.")
    talk.answer()


def _clear(talk: Talk, _: str) -> None:
    """Forget what was said."""
    talk.conversation.clear()
    talk.terminal.note("Forgotten.", style="dim")


def _help(talk: Talk, _: str) -> None:
    """List the commands."""
    for name, command in COMMANDS.items():
        talk.terminal.note(f"{name:<8} {command.__doc__}")
    talk.terminal.note("exit     End the chat; so does Ctrl-D.")
    talk.terminal.note("A backslash at the end of a line goes on in the next one.")


COMMANDS: Final[Mapping[str, Callable[[Talk, str], None]]] = {
    "/model": _model,
    "/system": _system,
    "/image": _image,
    "/save": _save,
    "/retry": _retry,
    "/clear": _clear,
    "/help": _help,
}
