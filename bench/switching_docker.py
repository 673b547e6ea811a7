"""What the gateway adds to a switch between containers: Docker's own stop and start next to ours.

    python bench/switching_docker.py [--rounds N] [--loads S,...] [--json FILE]

README.md beside this file says what is measured, and how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import docker
from docker.errors import DockerException
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds only its folder

from bench import machine
from bench.processes import Missing
from bench.waiting import eventually, post
from tests.e2e.stack import ENGINES, GROUND, PROJECT, Stack, new_stack

MOST_S = 0.5
"""What the gateway may add to a switch."""
OLD, NEW = "qwen-coder", "qwen-14b"
PORTS = {OLD: "QWEN_CODER_PORT", NEW: "QWEN_14B_PORT"}
GATEWAY = f"{PROJECT}-gateway-1"
STOP_S = 20
ANSWERS_S = 120.0
CHAT = "/v1/chat/completions"

console = Console()


@dataclass(frozen=True, slots=True)
class Sample:
    """One switch without the gateway and one through it.

    Attributes:
        load_s: How long the new engine loads.
        docker_s: From the stop of the old engine to the first answer of the new one.
        gateway_s: From a request for the new model to its answer.
    """

    load_s: float
    docker_s: float
    gateway_s: float

    @property
    def added_s(self) -> float:
        """What the gateway takes."""
        return self.gateway_s - self.docker_s


class Bench:
    """Two engines of a running set-up, switched by hand and by the gateway in turns."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._docker = docker.APIClient(version="auto")

    def sample(self, load_s: float) -> Sample:
        """Measure one switch each way; the new engine takes `load_s` seconds to load."""
        self._stack.faults(NEW, "--load-s", str(load_s))
        return Sample(load_s, self._by_hand(), self._by_gateway())

    def _by_hand(self) -> float:
        self._stack.post("/api/v1/inference/unload", {}, headers=self._stack.admin)
        with self._frozen_gateway():
            self._docker.start(ENGINES[OLD])
            self._until_answered(OLD)
            began = time.monotonic()
            self._docker.stop(ENGINES[OLD], timeout=STOP_S)
            self._docker.start(ENGINES[NEW])
            self._until_answered(NEW)
            seconds = time.monotonic() - began
            self._docker.stop(ENGINES[NEW], timeout=STOP_S)
        return seconds

    def _by_gateway(self) -> float:
        port = self._stack.ports["GATEWAY_PORT"]
        _ask(int(port), OLD)
        began = time.monotonic()
        status = _ask(int(port), NEW)
        seconds = time.monotonic() - began
        if status != 200:
            raise Missing(f"an answer through the gateway; it gave status {status}")
        return seconds

    @contextlib.contextmanager
    def _frozen_gateway(self) -> Iterator[None]:
        """Keep the gateway from ending engines that it did not start."""
        self._docker.pause(GATEWAY)
        try:
            yield
        finally:
            self._docker.unpause(GATEWAY)

    def _until_answered(self, model: str) -> None:
        port = int(self._stack.ports[PORTS[model]])
        eventually(lambda: _ask(port, model) == 200, ANSWERS_S, f"an answer of {model}", 0.01)


def _ask(port: int, model: str) -> int:
    """Ask for one token; return the status of the answer, 0 where there is none."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return post(port, CHAT, json.dumps(body).encode(), {}, ANSWERS_S)[0]


def main() -> int:
    arguments = parsed(sys.argv[1:])
    try:
        samples = measured(arguments.rounds, arguments.loads)
    except (Missing, DockerException) as error:
        console.print(f"This needs {error}", style="red", highlight=False)
        return 1
    show(samples)
    if arguments.json:
        kept = {"machine": machine.describe(), "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0 if holds(samples) else 1


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="medians of so many (default: 7)")
    add("--loads", default="0,5", metavar="S,...", help="seconds that engines load (default: 0,5)")
    add("--json", type=Path, metavar="FILE", help="keep every sample")
    arguments = parser.parse_args(argv)
    arguments.loads = [float(load) for load in arguments.loads.split(",")]
    return arguments


def measured(rounds: int, loads: Sequence[float]) -> list[Sample]:
    """Bring the set-up up, measure in turns, and take it down."""
    with (
        tempfile.TemporaryDirectory(prefix="llm-bench-") as folder,
        console.status("making images") as status,
    ):
        subprocess.run(["bash", GROUND / "images.sh"], check=True)
        with new_stack(Path(folder)) as stack:
            status.update("starting")
            stack.script("start_all", "--setup", "compose", "--model", OLD, "--yes", "--detach")
            bench = Bench(stack)
            samples = []
            for number in range(rounds):
                status.update(f"round {number + 1} of {rounds}")
                samples += [bench.sample(load_s) for load_s in loads]
            stack.script("stop_all")
            return samples


def by_load(samples: Sequence[Sample]) -> Iterator[tuple[float, list[Sample]]]:
    """Yield the samples of each load time."""
    for load_s in sorted({sample.load_s for sample in samples}):
        yield load_s, [sample for sample in samples if sample.load_s == load_s]


def added(samples: Sequence[Sample]) -> float:
    """Return the median of what the gateway adds."""
    return statistics.median(sample.added_s for sample in samples)


def holds(samples: Sequence[Sample]) -> bool:
    """Return whether the gateway adds no more than it may, however long engines load."""
    return all(added(found) <= MOST_S for _, found in by_load(samples))


def show(samples: Sequence[Sample]) -> None:
    """Print the table and the verdict."""
    table = Table(title="A switch between two containers, in seconds", title_justify="left")
    for name in ("the engine loads", "Docker alone", "through the gateway", "added", "most"):
        table.add_column(name, justify="right")
    for load_s, found in by_load(samples):
        alone = statistics.median(sample.docker_s for sample in found)
        through = statistics.median(sample.gateway_s for sample in found)
        most = max(sample.added_s for sample in found)
        figures = (alone, through, added(found), most)
        table.add_row(f"{load_s:g}", *(f"{figure:.2f}" for figure in figures))
    console.print(table)
    rounds = len(samples) // len(list(by_load(samples)))
    here = machine.describe()
    verdict = "holds" if holds(samples) else "does not hold"
    console.print(
        f"Medians of {rounds}, stand-in engines without a GPU; {here['cpu']}, {here['cores']} "
        f"cores, {here['date']}; load average: {here['load_average']}.\n"
        f"At most {MOST_S} s added: {verdict}",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
