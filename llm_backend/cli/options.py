"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from llm_backend.cli.project import open_project
from llm_backend.config.settings import Setup
from llm_backend.errors import LLMBackendError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SetupOption = Annotated[
    Setup | None,
    typer.Option(
        "--setup",
        help="How engines run: local (processes of this machine), compose (containers) or "
        "external (servers that others run, and no engine here). By default compose where "
        "Docker, an NVIDIA GPU and docker-compose.yml are there, else local.",
    ),
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told before.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")
]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=2, metavar="T", help="0 is the least varied.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take the defaults.")]


def complete_model(beginning: str) -> Iterable[str]:
    """Return the ids of models that begin so, for the shell's completion."""
    try:
        models = open_project().catalog.models
    except LLMBackendError:
        return []
    return [model for model in models if model.startswith(beginning)]


AskedModel = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Id or alias; without it, the awake model, else the default.",
        autocompletion=complete_model,
    ),
]


def complete_source(beginning: str) -> Iterable[str]:
    """Return the logs whose names begin so, for the shell's completion."""
    others = [name for name in ("gateway", "redis", "all") if name.startswith(beginning)]
    return [*others, *complete_model(beginning)]
