"""A gateway for tests: `python -m tests.gateway_program ROOT [--kill-at KIND:NAME[:MODEL]]`.

It is the real one, built by the real composition root from ROOT/config. With `--kill-at` it ends
itself by SIGKILL the moment that the named state or step is told to its listeners.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from llm_backend.config import load_settings
from llm_backend.errors import SetupError
from llm_backend.server import run
from llm_backend.switching.feed import Notice


def kill_at(point: str) -> Callable[[Notice], None]:
    kind, name, model = [*point.split(":", 2), ""][:3]

    def listener(notice: Notice) -> None:
        if notice.kind != kind or notice.data.get(kind) != name:
            return
        if model in {"", notice.data.get("model")}:
            os.kill(os.getpid(), signal.SIGKILL)

    return listener


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--kill-at")
    arguments = parser.parse_args()
    listeners = [kill_at(arguments.kill_at)] if arguments.kill_at else []
    settings = load_settings(arguments.root, {}, {})
    try:
        return run(settings, listeners=listeners)
    except SetupError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
