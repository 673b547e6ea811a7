"""What a scrape of the gateway's metrics costs, and that invented names do not make it larger.

    python bench/scrape.py [--rounds N] [--names N] [--json FILE]

README.md beside this file says what is measured, and how.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds only its folder

from bench import machine
from bench.processes import Missing, cores, cpu_ns, running
from bench.targets import KEY, clean_environment
from bench.waiting import eventually, get
from llm_backend.config.root import ROOT_VARIABLE
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.runtimes.ports import free_port

MOST_MS = 50.0
"""The longest that a scrape of the first set-up may take."""

SETUPS = ((3, 5), (10, 20))
"""Models and keys."""

CAPABILITIES = ("chat", "completions", "responses", "messages", "embeddings", "tokenize")

console = Console()


@dataclass(frozen=True, slots=True)
class Size:
    """How large a scrape is.

    Attributes:
        series: Lines with a value.
        bytes: Of all its text.
    """

    series: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one set-up.

    Attributes:
        models: In the catalog.
        keys: Configured; the gateway adds the one of its administrator.
        wall_ms: Median time from the request to the last byte.
        worst_ms: The longest.
        cpu_ms: CPU time of the gateway, for each scrape.
        before: Size after the start.
        after: Size after all invented names.
    """

    models: int
    keys: int
    wall_ms: float
    worst_ms: float
    cpu_ms: float
    before: Size
    after: Size


class Gateway:
    """A running gateway, and a connection to it."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.process = process
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of the answer to one request."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def scrape(self) -> bytes:
        """Return all series."""
        status, text = self.ask("GET", "/metrics", KEY)
        if status != 200:
            raise Missing(f"metrics: {status} {text[:200]!r}")
        return text


def configure(root: Path, port: int, models: int, keys: int) -> None:
    """Write the two configuration files; no engine is ever started."""
    (root / "config").mkdir(parents=True)
    model = {
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": ["sleep", "86400"]},
        "capabilities": list(CAPABILITIES),
        "devices": ["cpu"],
    }
    catalog: dict[str, Any] = {
        "devices": {"cpu": {"kind": "cpu"}},
        "models": {f"model-{number}": dict(model) for number in range(models)},
    }
    names = [KEY, *(f"key-{number}" for number in range(1, keys))]
    settings = {
        "setup": "local",
        "state_dir": str(root / "state"),
        "server": {"port": port},
        "keys": [
            {"name": f"key-{number}", "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for number, key in enumerate(names)
        ],
    }
    (root / "config" / "models.yaml").write_text(yaml.safe_dump(catalog))
    (root / "config" / "gateway.yaml").write_text(yaml.safe_dump(settings))


@contextlib.contextmanager
def serving(models: int, keys: int) -> Iterator[Gateway]:
    """Run a gateway with so many models and keys."""
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as folder:
        root, port = Path(folder), free_port("127.0.0.1")
        configure(root, port, models, keys)
        argv = [sys.executable, "-m", "llm_backend", "serve", "--setup", "local"]
        environment = clean_environment(**{ROOT_VARIABLE: str(root)})
        with running(argv, cores()[1], root / "gateway.log", environment) as process:
            eventually(lambda: get(port, "/health/ready")[0] == 200, 60, "our gateway is ready")
            yield Gateway(port, process)


def measured(gateway: Gateway, rounds: int) -> tuple[list[float], float]:
    """Return how long each scrape took, and the CPU time of one in the mean, in milliseconds."""
    gateway.scrape()
    walls = []
    before = cpu_ns([gateway.process])
    for _ in range(rounds):
        began = time.perf_counter()
        gateway.scrape()
        walls.append(1000 * (time.perf_counter() - began))
    return walls, (cpu_ns([gateway.process]) - before) / rounds / 1e6


def size_of(text: bytes) -> Size:
    """Return how large a scrape is."""
    series = [line for line in text.splitlines() if line and not line.startswith(b"#")]
    return Size(len(series), len(text))


def invent(gateway: Gateway, names: int) -> None:
    """Send so many names that there were never before: models, then keys, then paths."""
    routes = list(ENDPOINTS)
    body = json.dumps({"model": "model-0", "messages": []}).encode()

    def model(number: int) -> int:
        asked = json.dumps({"model": f"invented-{number}", "messages": []}).encode()
        return gateway.ask("POST", routes[number % len(routes)], KEY, asked)[0]

    def key(number: int) -> int:
        return gateway.ask("POST", routes[number % len(routes)], f"invented-{number}", body)[0]

    def path(number: int) -> int:
        return gateway.ask("GET", f"/invented-{number}", KEY)[0]

    kinds: tuple[tuple[Callable[[int], int], int], ...] = ((model, 404), (key, 401), (path, 404))
    for kind, expected in kinds:
        statuses = {kind(number) for number in range(names)}
        if statuses != {expected}:
            raise Missing(f"{expected} for each invented name; there were {sorted(statuses)}")


def outcome_of(models: int, keys: int, rounds: int, names: int) -> Outcome:
    """Measure one set-up."""
    with serving(models, keys) as gateway:
        before = size_of(gateway.scrape())
        invent(gateway, names)
        walls, cpu_ms = measured(gateway, rounds)
        after = size_of(gateway.scrape())
    median = statistics.median(walls)
    return Outcome(models, keys, median, max(walls), cpu_ms, before, after)


def faults(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what is not as it is to be."""
    found = [
        f"{x.models} models, {x.keys} keys: {x.before.series} series became {x.after.series}"
        for x in outcomes
        if x.before.series != x.after.series
    ]
    first = outcomes[0]
    if first.wall_ms >= MOST_MS:
        found.append(f"a scrape took {first.wall_ms:.1f} ms, {MOST_MS:g} are wanted")
    return found


def show(outcomes: Sequence[Outcome], names: int) -> None:
    """Print everything."""
    table = Table(title="One scrape of /metrics, by models and keys", title_justify="left")
    table.add_column("set-up", no_wrap=True)
    for name in ("wall, ms", "most", "CPU, ms", "series", "KiB", "later", "KiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in outcomes:
        times = (f"{value:.1f}" for value in (x.wall_ms, x.worst_ms, x.cpu_ms))
        sizes = (f"{n:,.0f}" for s in (x.before, x.after) for n in (s.series, s.bytes / 1024))
        table.add_row(f"{x.models} x {x.keys}", *times, *sizes)
    console.print(table)
    about = machine.describe()
    console.print(
        f"Later: after {names:,} invented models, keys and paths each. {about['cpu']}, "
        f"{about['cores']} cores, Python {about['python']}, {about['date']}, load average "
        f"{about['load_average']}",
        highlight=False,
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="scrapes that are measured (100)")
    parser.add_argument("--names", type=int, default=20_000, help="of each kind (20,000)")
    parser.add_argument("--json", type=Path, help="keep everything in this file")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, and tell; return 1 where a scrape takes too long or grows."""
    options = parsed()
    try:
        outcomes = [outcome_of(*setup, options.rounds, options.names) for setup in SETUPS]
    except Missing as missing:
        console.print(f"This is missing: {missing}", highlight=False)
        return 2
    show(outcomes, options.names)
    if options.json is not None:
        kept = {"machine": machine.describe(), "outcomes": [asdict(x) for x in outcomes]}
        options.json.write_text(json.dumps(kept, indent=2))
    found = faults(outcomes)
    for fault in found:
        console.print(fault, highlight=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
