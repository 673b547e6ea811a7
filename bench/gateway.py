"""Our gateway next to its peers: CPU time, latency and memory, in front of the same mock engine.

    python bench/gateway.py [--quick] [--only NAME,...] [--json FILE] [--png FILE]

README.md beside this file says what is measured, and how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # a script finds only what lies beside it

from bench import machine, own, peers, programs, targets  # noqa: E402  # needs the line above
from bench.measure import Bench, Effort  # noqa: E402  # the same
from bench.processes import Missing, cores, freeze  # noqa: E402  # the same
from bench.report import Report, faults, markdown, put_into, show  # noqa: E402  # the same
from bench.scenarios import SCENARIOS, Scenario, TargetKind  # noqa: E402  # the same
from bench.targets import DIRECT, Place, Start, Target  # noqa: E402  # the same

STARTS: Mapping[str, tuple[TargetKind, Start]] = {
    "ours": ("ours", own.ours),
    "nginx": ("any", targets.nginx),
    "vllm-router": ("any", targets.vllm_router),
    "LiteLLM": ("any", targets.litellm),
    "ours-redis": ("redis", own.ours_with_redis),
}

console = Console()


def main() -> int:
    arguments = parsed(sys.argv[1:])
    try:
        report = kept(arguments.read) if arguments.read else measured(arguments)
    except Missing as error:
        console.print(f"This needs {error}", style="red", highlight=False)
        return 1
    show(report, console)
    save(report, arguments)
    return 1 if faults(report) else 0


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    known = [DIRECT, *STARTS, *(s.name for s in SCENARIOS)]
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round: to see that it works")
    add("--only", default="", metavar="NAME,...", help="of these: " + ", ".join(known))
    add("--rounds", type=int, default=3, help="medians of so many (default: 3)")
    add("--json", type=Path, metavar="FILE", help="keep everything")
    add("--read", type=Path, metavar="FILE", help="measure nothing; take what --json has kept")
    add("--png", type=Path, metavar="FILE", help="draw a chart")
    add("--markdown", type=Path, metavar="FILE", help="put the tables between the marks of a page")
    arguments = parser.parse_args(argv)
    arguments.only = {name for name in arguments.only.split(",") if name}
    if unknown := arguments.only - set(known):
        parser.error(f"--only: unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return arguments


class _Formatter(argparse.RawDescriptionHelpFormatter):
    pass


def chosen(only: set[str]) -> tuple[list[str], list[Scenario]]:
    """Return the targets and the scenarios that `--only` leaves."""
    scenarios = [s for s in SCENARIOS if s.name in only] or list(SCENARIOS)
    named = [name for name in STARTS if name in only] or list(STARTS)
    return [n for n in named if any(s.suits(STARTS[n][0]) for s in scenarios)], scenarios


def kept(path: Path) -> Report:
    """Return the report of an earlier run."""
    return Report.from_json(json.loads(path.read_bytes()))


def measured(arguments: argparse.Namespace) -> Report:
    """Start everything, measure, and end everything."""
    effort = (
        Effort(1, seconds=0.7, warm_up_s=0.2, events=100)
        if arguments.quick
        else Effort(arguments.rounds, seconds=3, warm_up_s=0.5, events=300)
    )
    names, scenarios = chosen(arguments.only)
    report = Report(machine.describe(), asdict(effort), {})
    helper_core, core = cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-bench-")))
        port = stack.enter_context(programs.mock(helper_core, folder / "mock.log"))
        place = Place(folder, port, core, helper_core)
        status = stack.enter_context(console.status("starting"))
        running = [Target(DIRECT, "", port)]
        for name in names:
            status.update(f"starting {name}")
            running += started(name, place, report, stack)
        bench = Bench(running, folder, helper_core, effort)
        report.samples = bench.run(scenarios, status.update)
        report.memory_mib = bench.memory_mib()
    return report


def started(
    name: str, place: Place, report: Report, stack: contextlib.ExitStack
) -> Iterator[Target]:
    """Start a target and freeze it; where that cannot be, the report says why."""
    _, start = STARTS[name]
    try:
        target = stack.enter_context(start(place))
        target.settle()
    except Missing as error:
        report.left_out[name] = str(error)
        return
    freeze(target.processes)
    report.versions[name] = target.version
    yield target


def save(report: Report, arguments: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    if arguments.json:
        arguments.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    if arguments.png:
        draw(report, arguments.png)
    if arguments.markdown:
        chart = arguments.png
        link = chart.name if chart and chart.exists() else None
        put_into(arguments.markdown, markdown(report, link))


def draw(report: Report, path: Path) -> None:
    """Draw the chart; without matplotlib there is none."""
    try:
        python = peers.environment("chart", "matplotlib") / "python"
    except Missing as error:
        console.print(f"No chart: {error}", highlight=False)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(report.to_json(), file)
        file.flush()
        argv = [str(python), str(HERE / "chart.py"), file.name, str(path)]
        subprocess.run(argv, check=True)


if __name__ == "__main__":
    sys.exit(main())
