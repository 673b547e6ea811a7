"""vLLM's server with its code imported and everything else still to do: the standby of standby.py.

    standby_program.py FILE [--fork]

It makes FILE when it is on standby, waits for one line of JSON on its standard input with the
arguments, and goes on as `python -m vllm.entrypoints.openai.api_server ARGUMENTS` does after its
imports. With `--fork` the processes that it starts are forked instead of spawned, so that they have
the code too.

It runs in vLLM's environment and imports nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

MODULES = (
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.cli_args",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen2",
    "transformers.models.qwen2",
)
"""What the server imports at once, and what it or its children import on their way."""


def fork_instead_of_spawn() -> None:
    """Have every process start by fork; vLLM's CPU platform insists on spawn by its variable."""
    original = multiprocessing.get_context

    def forking(method: str | None = None) -> Any:
        return original("fork" if method == "spawn" else method)

    multiprocessing.get_context = forking


def imported() -> None:
    """Import all that can be imported without a model and without a device."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # modules move between versions of vLLM
            print(f"left out: {error}", file=sys.stderr)


def untouched() -> bool:
    """Return whether no device has been initialised."""
    return not importlib.import_module("torch").cuda.is_initialized()


def main() -> None:
    """Be on standby, then serve."""
    if "--fork" in sys.argv:
        fork_instead_of_spawn()
    imported()
    if not untouched():
        sys.exit("the imports alone have initialised CUDA: no standby can be had of this version")
    Path(sys.argv[1]).touch()
    sys.argv[1:] = json.loads(sys.stdin.readline())
    importlib.import_module("vllm.entrypoints.launchers.api_server.entry").main()


if __name__ == "__main__":  # a spawned child imports this file and must not become a server
    main()
