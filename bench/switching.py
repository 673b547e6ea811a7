"""What a switch costs beside the engine's own work, and what makes an engine's start shorter.

    python bench/switching.py [--rounds N] [--starts N] [--only PART,...] [--json FILE]

README.md beside this file says what is measured, and how.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds only its folder

from bench import machine, page_cache, standby
from bench.processes import Missing, end
from bench.waiting import eventually, post
from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import plan_for
from llm_backend.engines.llamacpp import unavailable_reason
from llm_backend.runtimes.ports import free_port
from llm_backend.testing.fake_engine import command
from llm_backend.weights.store import Store
from tests.harness import GatewayHome, gateway_home
from tests.integration.test_engines import SMOLLM2

MOST_STOP_START_S = 0.5
"""What the gateway may add to the stop of an engine and the start of another."""
MOST_SLEEP_WAKE_S = 0.1
"""What it may add to the sleep of an engine and the wake of another."""
OLD, NEW = "old", "new"
ANSWERS_S = 120.0
SLEEPING_S, WAKING_S = 0.3, 0.2
PARTS = ("stop-start", "sleep-wake", "page-cache", "standby")

console = Console()


@dataclass(frozen=True, slots=True)
class Case:
    """Two models, and the way from one to the other.

    Attributes:
        name: What is told.
        part: The part that it belongs to.
        entry: The catalog entry of either model.
        most_s: What the gateway may add; None where the engine computes while it starts: on a busy
            machine its own time varies by more than that.
    """

    name: str
    part: str
    entry: Callable[[str], dict[str, Any]]
    most_s: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One switch without the gateway and one through it, in seconds."""

    case: str
    alone_s: float
    gateway_s: float

    @property
    def added_s(self) -> float:
        """What the gateway takes."""
        return self.gateway_s - self.alone_s


@dataclass(slots=True)
class Found:
    """All samples."""

    switches: list[Sample] = field(default_factory=list)
    page_cache: list[page_cache.Round] = field(default_factory=list)
    standby: list[standby.Round] = field(default_factory=list)


def fake(*flags: str, **fields: Any) -> Callable[[str], dict[str, Any]]:
    """Return what makes catalog entries of the fake engine."""

    def entry(name: str) -> dict[str, Any]:
        argv = command("--served-model-name", name, *flags)
        engine = {"kind": "command", "argv": list(argv), "sleep_mode": "--sleep-mode" in flags}
        return {**_common(), "engine": engine, **fields}

    return entry


def llamacpp(_: str) -> dict[str, Any]:
    """Return a catalog entry of llama.cpp's server with its demo model."""
    return {
        **_common(),
        "engine": {"kind": "llama.cpp", "context": 512, "parallel": 1},
        "weights": SMOLLM2,
    }


def _common() -> dict[str, Any]:
    return {"runtimes": ["process"], "capabilities": ["chat", "completions"], "devices": ["cpu"]}


def cases(only: Sequence[str]) -> list[Case]:
    """Return what is measured with and without the gateway."""
    delays = ("--sleep-delay-s", str(SLEEPING_S), "--wake-delay-s", str(WAKING_S))
    sleeper = fake("--sleep-mode", *delays, residency="asleep-1")
    stop_start, sleep_wake = PARTS[:2]
    known = [
        Case("stop + start, loads 0 s", stop_start, fake(), MOST_STOP_START_S),
        Case("stop + start, loads 3 s", stop_start, fake("--load-s", "3"), MOST_STOP_START_S),
        Case("stop + start, llama.cpp", stop_start, llamacpp, None),
        Case("sleep + wake", sleep_wake, sleeper, MOST_SLEEP_WAKE_S),
    ]
    absent = llamacpp if unavailable_reason() else None
    return [case for case in known if case.part in only and case.entry is not absent]


class Engine:
    """An engine without a gateway; to be entered, and ended when it is left."""

    def __init__(self, case: Case, name: str, folder: Path) -> None:
        spec = ModelSpec.model_validate({"id": name, **case.entry(name)})
        self._plan = plan_for(spec, Store(folder / "models"))
        self._log = folder / f"{name}.log"
        self._program: subprocess.Popen[bytes] | None = None
        self._name = name
        self.port = free_port("127.0.0.1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            end(self._program)

    def start(self) -> None:
        """Start it, and wait for its first answer."""
        with self._log.open("ab") as output:
            self._program = subprocess.Popen(
                [word.replace("{port}", str(self.port)) for word in self._plan.argv],
                env={**os.environ, **self._plan.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        answers = functools.partial(_ask, self.port, self._name)
        eventually(lambda: answers()[0] == 200, ANSWERS_S, f"an answer of {self._name}", 0.01)

    def stop(self) -> None:
        """End it as a runtime does, and wait for its end."""
        if self._program is not None:
            self._program.terminate()
            self._program.wait(ANSWERS_S)

    def sleep(self) -> None:
        """Put it to sleep."""
        _must(self.port, "/sleep?level=1&mode=abort")

    def wake(self) -> None:
        """Wake it, and wait for its first answer."""
        _must(self.port, "/wake_up")
        _must(self.port, "/reset_prefix_cache")
        _must_answer(self.port, self._name)


def stop_start_s(case: Case, folder: Path) -> float:
    """Return the seconds from the stop of the old engine to an answer of the new one."""
    with Engine(case, OLD, folder) as old, Engine(case, NEW, folder) as new:
        old.start()
        began = time.monotonic()
        old.stop()
        new.start()
        return time.monotonic() - began


@contextlib.contextmanager
def sleepers(case: Case, folder: Path) -> Iterator[Callable[[], float]]:
    """Run both engines; yield what measures a sleep of the old and a wake of the new one."""
    with Engine(case, OLD, folder) as old, Engine(case, NEW, folder) as new:
        old.start()
        new.start()
        new.sleep()

        def seconds() -> float:
            began = time.monotonic()
            old.sleep()
            new.wake()
            taken = time.monotonic() - began
            new.sleep()
            old.wake()
            return taken

        yield seconds


def _must(port: int, path: str) -> None:
    status, body = post(port, path, b"", {}, ANSWERS_S)
    if status != 200:
        raise Missing(f"200 for {path}; the engine gave {status}: {body[:200]!r}")


def _must_answer(port: int, model: str) -> None:
    status, body = _ask(port, model)
    if status != 200:
        raise Missing(f"an answer of {model}; there was status {status}: {body[:200]!r}")


def _ask(port: int, model: str) -> tuple[int, bytes]:
    """Ask for one token."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return post(port, "/v1/chat/completions", json.dumps(body).encode(), {}, ANSWERS_S)


def through_gateway_s(port: int) -> float:
    """Return the seconds from a request for the new model to its answer."""
    _must_answer(port, OLD)
    began = time.monotonic()
    _must_answer(port, NEW)
    return time.monotonic() - began


@contextlib.contextmanager
def gateway(case: Case, folder: Path) -> Iterator[int]:
    """Run a gateway with the two models; yield its port once both have been awake."""
    with gateway_home(folder) as home:
        models = {name: case.entry(name) for name in (OLD, NEW)}
        # `fair` would let the old model have its turn first, for which the clock would run.
        home.configure(models, switching={"policy": "fifo"})
        home.start()
        port = _port(home)
        through_gateway_s(port)
        yield port


def _port(home: GatewayHome) -> int:
    return int(home.url.rsplit(":", 1)[1])


def switched(case: Case, rounds: int) -> list[Sample]:
    """Measure one case, both ways in turns."""
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        alone_s: Callable[[], float] = functools.partial(stop_start_s, case, folder)
        if case.part == "sleep-wake":
            alone_s = stack.enter_context(sleepers(case, folder))
        port = stack.enter_context(gateway(case, folder))
        return [Sample(case.name, alone_s(), through_gateway_s(port)) for _ in range(rounds)]


def measured(only: Sequence[str], rounds: int, starts: int) -> Found:
    """Go through all parts."""
    found = Found()
    with console.status("starting") as status:
        for case in cases(only):
            status.update(case.name)
            found.switches += switched(case, rounds)
        if "page-cache" in only:
            status.update("vLLM, with and without its weights in the page cache")
            found.page_cache = page_cache.measured(starts)
        if "standby" in only:
            status.update("vLLM, with and without a standby")
            found.standby = standby.measured(starts, *page_cache.SIZE)
    return found


def added_s(samples: Sequence[Sample]) -> float:
    """Return the median of what the gateway adds."""
    return statistics.median(sample.added_s for sample in samples)


def of_case(case: Case, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of one case."""
    return [sample for sample in samples if sample.case == case.name]


def missed(samples: Sequence[Sample]) -> list[str]:
    """Return the cases in which the gateway adds more than it may."""
    judged = [(c.name, c.most_s, of_case(c, samples)) for c in cases(PARTS) if c.most_s is not None]
    return [name for name, most_s, own in judged if own and added_s(own) > most_s]


def show(found: Found) -> None:
    """Print the tables and the verdict."""
    if found.switches:
        show_switches(found.switches)
    if found.page_cache:
        show_page_cache(found.page_cache)
    if found.standby:
        standby.show(found.standby)
    here = machine.describe()
    console.print(
        f"{here['cpu']}, {here['cores']} cores, {here['date']}; load average: "
        f"{here['load_average']}.",
        highlight=False,
    )
    for name in missed(found.switches):
        console.print(f"{name}: the gateway adds more than it may", style="red", highlight=False)


def show_switches(samples: Sequence[Sample]) -> None:
    """Print what the gateway adds to switches."""
    table = Table(title="A switch between two models, in seconds", title_justify="left")
    for name in ("", "engines alone", "through the gateway", "added", "most", "wanted"):
        table.add_column(name, justify="right" if name else "left")
    for case in [case for case in cases(PARTS) if of_case(case, samples)]:
        own = of_case(case, samples)
        alone = statistics.median(sample.alone_s for sample in own)
        through = statistics.median(sample.gateway_s for sample in own)
        most = max(sample.added_s for sample in own)
        figures = (alone, through, added_s(own), most)
        table.add_row(case.name, *(f"{each:.3f}" for each in figures), _wanted(case))
    console.print(table)


def _wanted(case: Case) -> str:
    return "" if case.most_s is None else f"<= {case.most_s:g}"


def show_page_cache(rounds: Sequence[page_cache.Round]) -> None:
    """Print what the page cache saves."""
    dropped = statistics.median(each.dropped_s for each in rounds)
    ahead = statistics.median(each.ahead_s for each in rounds)
    reading = statistics.median(each.reading_s for each in rounds)
    console.print(
        f"A start of vLLM on the CPU with {rounds[0].mib} MiB of weights: {dropped:.1f} s with "
        f"weights on the disk alone, {ahead:.1f} s with weights read ahead (which took "
        f"{reading:.2f} s): {page_cache.saved_s(rounds):.1f} s saved, medians of {len(rounds)}.",
        highlight=False,
    )


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=15, metavar="N", help="switches of a kind (default: 15)")
    add("--starts", type=int, default=5, metavar="N", help="starts of a kind (default: 5)")
    add("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    add("--json", type=Path, metavar="FILE", help="keep every sample")
    arguments = parser.parse_args(argv)
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


def main() -> int:
    arguments = parsed(sys.argv[1:])
    try:
        found = measured(arguments.only, arguments.rounds, arguments.starts)
    except Missing as error:
        console.print(f"This needs {error}", style="red", highlight=False)
        return 1
    show(found)
    if arguments.json:
        kept = {"machine": machine.describe(), **asdict(found)}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 1 if missed(found.switches) else 0


if __name__ == "__main__":
    sys.exit(main())
