"""A stand-in for the `docker` program: it answers from a table and writes down what it was asked.

The table is `docker.json` beside it: rows of [words, code, standard output, standard error]. The
first row whose words all stand in the command line, in this order, answers. After `down` the rows
for "ps --all" are gone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

WELL = [
    ("gateway", "llm-backend-gateway-1", "running", "healthy", 0),
    ("redis", "llm-backend-redis-1", "running", "healthy", 0),
    ("llm-boxed", "llm-boxed", "created", "", 0),
]


def listing(services: list[tuple[str, str, str, str, int]]) -> str:
    """Return what `docker compose ps --format json` prints."""
    names = ("Service", "Name", "State", "Health", "ExitCode")
    return "\n".join(json.dumps(dict(zip(names, each, strict=True))) for each in services)


class FakeDocker:
    """The table of one fake, and its journal.

    Args:
        tools: A directory of the PATH.
    """

    def __init__(self, tools: Path) -> None:
        self._table = tools / "docker.json"
        self._journal = tools / "docker.jsonl"
        self._journal.touch()
        self.rows: list[tuple[str, int, str, str]] = [
            ("version", 0, "29.1.0", ""),
            ("compose version", 0, "2.40.1", ""),
            ("info Runtimes", 0, '{"nvidia":{"path":"x"},"runc":{"path":"runc"}}', ""),
            ("info DockerRootDir", 0, str(tools), ""),
            ("config --services", 0, "gateway\nredis\nllm-boxed", ""),
            ("compose ps", 0, "", ""),
            ("", 0, "", ""),
        ]
        shim = tools / "docker"
        shim.write_text(f"#!{sys.executable}\n" + Path(__file__).read_text())
        shim.chmod(0o755)
        self._save()

    def answers(self, words: str, code: int = 0, out: str = "", err: str = "") -> None:
        """Answer so where these words stand in the command line; the last said counts most."""
        self.rows.insert(0, (words, code, out, err))
        self._save()

    def makes(self, path: Path, text: str, after: str) -> None:
        """Write this file when this word is in a command line."""
        self._table.with_name("makes.json").write_text(json.dumps([after, str(path), text]))

    def _save(self) -> None:
        self._table.write_text(json.dumps(self.rows))

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._journal.read_text().splitlines()]

    def asked(self, words: str) -> list[dict[str, Any]]:
        """Return the calls with these words."""
        return [call for call in self.calls if stand_in(words, call["argv"])]


def stand_in(words: str, argv: list[str]) -> bool:
    """Return whether all the words stand in a command line, in this order."""
    rest = iter(argv)
    return all(any(word in argument for argument in rest) for word in words.split())


def answer() -> int:
    """Be docker."""
    here = Path(shutil.which("docker") or __file__).parent
    with (here / "docker.jsonl").open("a") as journal:
        kept = {k: v for k, v in os.environ.items() if k.isupper()}
        journal.write(
            json.dumps({"argv": sys.argv[1:], "env": kept, "cwd": str(Path.cwd())}) + "\n"
        )
    table = here / "docker.json"
    rows = json.loads(table.read_text())
    if "down" in sys.argv:
        table.write_text(json.dumps([row for row in rows if row[0] != "ps --all"]))
    made = here / "makes.json"
    after, path, text = json.loads(made.read_text()) if made.exists() else ("", "", "")
    if after in sys.argv:
        Path(path).write_text(text)
    for words, code, out, err in rows:
        if stand_in(words, sys.argv[1:]):
            if out:
                print(out, flush=True)
            if err:
                print(err, file=sys.stderr, flush=True)
            if code < 0:
                time.sleep(-code)
            return max(code, 0)
    return 64


if __name__ == "__main__":
    sys.exit(answer())
