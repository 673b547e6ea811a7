"""The reference of the command line, out of its own help: `docs/reference/cli.md`.

Write it anew with `python -m llm_backend.cli.reference > docs/reference/cli.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from llm_backend.cli.main import EXIT_CODES, build_app

WIDTH = 88

HEAD = """\
# Command line

`llm-backend COMMAND`, or the scripts in `scripts/` that call it: `start_all.sh` (start),
`stop_all.sh` (stop), `switch_model.sh` (switch), `health_check.sh` (status), `logs.sh` (logs) and
`download_models.sh` (download). After `start_all.sh` has run once, the command itself is
`.venv/bin/llm-backend`.

- Results go to standard output, everything else to standard error. With `--json` standard output
  holds exactly one JSON object; that of a command that failed is
  `{"error": {"message", "code", "hint", "log_tail"}}`.
- On a terminal there are colours, progress bars and questions; elsewhere plain lines, and nothing
  is asked. `NO_COLOR=1` turns colours off.
- The checkout is that of `LLM_BACKEND_ROOT`, else the first directory from the current one upwards
  that holds `config/models.yaml`, else the one that the command was installed from.
- Settings can be given in the environment: `LLM_SERVER__PORT=7001 llm-backend start`. All of them
  are in the [configuration reference](configuration.md).
"""


def render() -> str:
    """Return the whole page."""
    root: Any = typer.main.get_command(build_app())
    parts = [HEAD, _exit_codes(), _section((), root)]
    parts += [_section(names, command) for names, command in commands(root)]
    return "\n".join(parts)


def commands(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below this one with the words that call it."""
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*names, name))
        else:
            yield (*names, name), child


def _exit_codes() -> str:
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"


def _section(names: tuple[str, ...], command: Any) -> str:
    words = " ".join(("llm-backend", *names))
    context = command.context_class(
        command,
        info_name=words,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return f"## {words}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    print(render(), end="")
