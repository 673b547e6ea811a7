"""A fake engine as a process that exports what vLLM exports: `python -m tests.exporting_engine FLAGS`."""

from __future__ import annotations

import asyncio
import socket
import sys

from llm_backend.testing.fake_flags import parse
from tests.e2e.ground.vllm.standin import Engine
from tests.harness import REPOSITORY


def engine(name: str, journal: str, *flags: str) -> dict[str, object]:
    """Return the part of a catalog entry that says how it is launched."""
    own = ("--port", "{port}", "--served-model-name", name, "--journal", journal)
    return {
        "kind": "command",
        "argv": [sys.executable, "-m", "tests.exporting_engine", *own, *flags],
        "working_directory": str(REPOSITORY),
        "progress_metric": "vllm:iteration_tokens_total_count",
    }


def main() -> None:
    behaviour = parse(sys.argv[1:])
    engine = Engine(behaviour)
    engine.note("start", model=behaviour.served_model_name)
    with socket.create_server((behaviour.host, behaviour.port)) as listener:
        sys.exit(asyncio.run(engine.serve(listener)))


if __name__ == "__main__":
    main()
