"""What a standby saves of vLLM's cold start: a process with the code imported, next to none.

    python bench/standby.py [--rounds N] [--tiny] [--json FILE]

README.md beside this file says what is measured, and how.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds only its folder

from bench import machine, page_cache
from bench.processes import Missing
from bench.vllm_cpu import START_S, Launch, interpreter, made_model, until_healthy
from bench.waiting import eventually
from llm_backend.runtimes.ports import free_port

LEAST_SAVED = 0.3
"""A standby is worth its memory from this share of a cold start on."""
PROGRAM = Path(__file__).with_name("standby_program.py")

console = Console()


@dataclass(frozen=True, slots=True)
class Round:
    """One start of each kind, in seconds, all of them with the files in the page cache.

    Attributes:
        cold_s: An ordinary start.
        standby_s: From the signal to a standby; its children are spawned, as vLLM has it.
        forked_s: The same, with children that are forked from it against vLLM's will.
    """

    cold_s: float
    standby_s: float
    forked_s: float


def start_from_standby_s(launch: Launch, *flags: str) -> float:
    """Return how long a start takes from a process that has everything imported."""
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        ready = Path(folder) / "ready"
        with launch.program(str(PROGRAM), str(ready), *flags) as program:
            eventually(lambda: _on_standby(program.poll(), ready), START_S, "a standby", 0.02)
            began = time.monotonic()
            if program.stdin is None:
                raise AssertionError("it was started with a pipe")
            program.stdin.write(json.dumps(launch.arguments(port)).encode() + b"\n")
            program.stdin.flush()
            until_healthy(program, port, launch.log)
            return time.monotonic() - began


def _on_standby(status: int | None, ready: Path) -> bool:
    if status is not None:
        raise Missing(f"a standby of vLLM; it ended with status {status}")
    return ready.exists()


def measured(rounds: int, *size: int) -> list[Round]:
    """Start vLLM in turns; one start before them fills the page cache and vLLM's own.

    Args:
        rounds: How often.
        size: Width and layers of the model; by default it is tiny, and a start only code.
    """
    python = interpreter()
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="llm-bench-") as folder,
        console.status("making a model") as status,
    ):
        model = made_model(python, Path(folder) / "model", *size)
        launch = Launch(python, model, Path(folder) / "log")
        launch.start_s()
        for number in range(rounds):
            status.update(f"round {number + 1} of {rounds}")
            ordinary = launch.start_s()
            spawned = start_from_standby_s(launch)
            found.append(Round(ordinary, spawned, start_from_standby_s(launch, "--fork")))
    return found


def saved(rounds: Sequence[Round], name: str = "standby_s") -> float:
    """Return the share of a cold start that is saved, by the medians; negative where none is."""
    return 1 - _median(rounds, name) / _median(rounds, "cold_s")


def _median(rounds: Sequence[Round], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in rounds))


def pays(rounds: Sequence[Round]) -> bool:
    """Return whether a standby saves what makes it worth while."""
    return saved(rounds) >= LEAST_SAVED


def show(rounds: Sequence[Round]) -> None:
    """Print the table and the ratio."""
    table = Table(title="A start of vLLM on the CPU, in seconds", title_justify="left")
    for name in ("start", "median", "least", "most", "saved"):
        table.add_column(name, justify="left" if name == "start" else "right")
    names = {
        "cold_s": "cold",
        "standby_s": "from a standby, children spawned",
        "forked_s": "from a standby, children forked",
    }
    for name, text in names.items():
        times = [getattr(each, name) for each in rounds]
        figures = (statistics.median(times), min(times), max(times))
        share = "" if name == "cold_s" else f"{saved(rounds, name):.0%}"
        table.add_row(text, *(f"{figure:.1f}" for figure in figures), share)
    console.print(table)
    here = machine.describe()
    console.print(
        f"Medians of {len(rounds)}; {here['cpu']}, {here['cores']} cores, {here['date']}; "
        f"load average: {here['load_average']}.\n"
        f"A standby saves {saved(rounds):.0%} of a cold start; it is worth while from "
        f"{LEAST_SAVED:.0%} on: {'yes' if pays(rounds) else 'no'}",
        highlight=False,
    )


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="medians of so many (default: 5)")
    add("--tiny", action="store_true", help="a model of 430 KB: what only code takes")
    add("--json", type=Path, metavar="FILE", help="keep every sample")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parsed(sys.argv[1:])
    try:
        rounds = measured(arguments.rounds, *(() if arguments.tiny else page_cache.SIZE))
    except Missing as error:
        console.print(f"This needs {error}", style="red", highlight=False)
        return 1
    show(rounds)
    if arguments.json:
        kept = {"machine": machine.describe(), "rounds": [asdict(each) for each in rounds]}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
