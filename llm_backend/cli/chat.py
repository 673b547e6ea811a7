"""`llm-backend chat`: talk with a model at the terminal."""

from __future__ import annotations

import typer

from llm_backend.cli.conversation import Conversation
from llm_backend.cli.door import door
from llm_backend.cli.options import AskedModel, MaxTokens, System, Temperature
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal


def chat(
    model: AskedModel = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> None:
    """Talk with a model.

    Type a message and press Enter; /help lists the commands, Ctrl-D ends. Ctrl-C stops an
    answer. Without a terminal each line of standard input is a message. Where no gateway runs,
    one is started for the time of the chat.
    """
    terminal = Terminal()
    project = open_project()
    given = {"max_tokens": max_tokens, "temperature": temperature}
    # It loads the line editor, which no other command needs.
    from llm_backend.cli.chat_talk import Chat  # noqa: PLC0415  # costs 0.3 s

    with door(terminal, project, model) as way:
        talk = Chat(terminal, way, model, Conversation(system))
        talk.params = {name: value for name, value in given.items() if value is not None}
        failed = talk.run()
    if failed and not terminal.interactive:
        raise typer.Exit(1)
