"""What people read: the tables on the terminal, the same in Markdown, and whether the bars hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measure import Figures, Sample, as_json, from_json, medians
from bench.scenarios import SCENARIOS, Scenario
from bench.targets import DIRECT

YARDSTICK = "vllm-router"
"""The gateway that ratios are told against."""

TITLES = {DIRECT: "no gateway", "ours-redis": "ours, with Redis"}

LEAST_MARKED = 0.9
"""Share of the answers that must be what a scenario is about: a hit, or a miss."""

BEGIN = "<!-- figures: written by bench/gateway.py --markdown -->"
END = "<!-- end of figures -->"


@dataclass(slots=True)
class Report:
    """All that a run has found.

    Attributes:
        machine: What it was measured on.
        effort: How long.
        versions: Of each target.
        memory_mib: Of each target, after the last round.
        left_out: What is not here, and why.
        samples: All rounds.
    """

    machine: dict[str, Any]
    effort: dict[str, Any]
    versions: dict[str, str]
    memory_mib: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, Figures]]:
        """Return the medians by scenario and target."""
        return medians(self.samples)

    def to_json(self) -> dict[str, Any]:
        """Return it as the JSON file keeps it."""
        return {
            "machine": self.machine,
            "effort": self.effort,
            "versions": self.versions,
            "memory_mib": self.memory_mib,
            "left_out": self.left_out,
            "ratios": self.ratios(),
            "samples": as_json(self.samples),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Report:
        """Return what a JSON file keeps."""
        fields = {name: kept[name] for name in cls.__slots__ if name != "samples"}
        return cls(**fields, samples=from_json(kept["samples"]))

    def ratios(self) -> dict[str, dict[str, float]]:
        """Return CPU time as a multiple of the yardstick's, by scenario and target."""
        found: dict[str, dict[str, float]] = {}
        for scenario, by_target in self.figures().items():
            rule = yardstick(self, scenario)
            if rule is not None:
                found[scenario] = {
                    name: round(its.cpu_us / rule, 3)
                    for name, its in by_target.items()
                    if its.cpu_us is not None
                }
        return found


def yardstick(report: Report, scenario: str) -> float | None:
    """Return the CPU time of the yardstick; for our cache that of a plain request."""
    figures = report.figures()
    own = {s.name for s in SCENARIOS if s.measures != "any"}
    rival = figures.get("request-64" if scenario in own else scenario, {}).get(YARDSTICK)
    return None if rival is None else rival.cpu_us


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: what we take, as a multiple of what another gateway takes.

    Attributes:
        scenario: Where.
        rival: The other gateway.
        most: The largest multiple that is kept to.
        text: In words.
    """

    scenario: str
    rival: str
    most: float
    text: str


BARS = (
    Bar("request-64", YARDSTICK, 1.6, "CPU per request at 64 connections"),
    Bar("stream-128", YARDSTICK, 1.5, "CPU per paced chunk at 128 streams"),
    Bar("request-64", "LiteLLM", 1 / 50, "CPU per request at 64 connections"),
)


def verdicts(report: Report) -> list[str]:
    """Say of each bar whether it holds; nothing of one that was not measured."""
    lines = []
    for bar in BARS:
        found = report.figures().get(bar.scenario, {})
        ours, rival = found.get("ours"), found.get(bar.rival)
        if ours is None or rival is None or ours.cpu_us is None or not rival.cpu_us:
            continue
        ratio = ours.cpu_us / rival.cpu_us
        holds = "holds" if ratio <= bar.most else "does not hold"
        lines.append(
            f"{bar.text}: {ratio:.3g} times {bar.rival}'s, at most {bar.most:.3g} wanted: {holds}"
        )
    return lines


def faults(report: Report) -> list[str]:
    """Say where answers were not as they must be."""
    lines = []
    for scenario, by_target in report.figures().items():
        for target, its in by_target.items():
            if its.errors:
                lines.append(f"{scenario}, {target}: {its.errors} errors, as {its.first_error}")
            elif its.marked < LEAST_MARKED:
                share = f"{its.marked:.0%} of the answers"
                lines.append(f"{scenario}, {target}: only {share} were what is measured")
    return lines


def tables(report: Report) -> list[tuple[str, list[list[str]]]]:
    """Return title and rows of each table; the first row is its head."""
    made = [
        ("CPU time per request, in microseconds", _cpu_rows(report, "request")),
        ("CPU time per chunk of a paced stream, in microseconds", _cpu_rows(report, "chunk")),
        ("Added latency in microseconds, and memory in MiB", _latency_rows(report)),
        ("Our cache: CPU time per request, and latency, in microseconds", _own_rows(report)),
    ]
    return [(title, rows) for title, rows in made if len(rows) > 1 and len(rows[0]) > 1]


def _cpu_rows(report: Report, unit: str) -> list[list[str]]:
    shown = [s for s in _measured(report) if s.unit == unit and s.measures == "any"]
    rows = [["gateway", *(s.title for s in shown)]]
    gateways = (name for name in _names(report, shown) if name != DIRECT)
    rows += ([_title(name), *(_cpu(report, s.name, name) for s in shown)] for name in gateways)
    return rows


def _own_rows(report: Report) -> list[list[str]]:
    rows = [["answer", "CPU time", "p50", "p99"]]
    for scenario in _measured(report):
        if scenario.measures != "any":
            for target, its in report.figures()[scenario.name].items():
                cost = _cpu(report, scenario.name, target)
                rows.append([scenario.title, cost, f"{its.p50_us:,.0f}", f"{its.p99_us:,.0f}"])
    return rows


def _latency_rows(report: Report) -> list[list[str]]:
    shown = [s for s in _measured(report) if s.name in {"request-1", "stream-4", "stream-32"}]
    named = {"request": "request, {}", "chunk": "first event, {}"}
    heads = [named[s.unit].format(s.title) for s in shown]
    rows = [["gateway", *heads, "memory"]]
    for target in _names(report, [s for s in _measured(report) if s.measures == "any"]):
        if target == DIRECT:
            continue
        found = [report.figures()[s.name].get(target) for s in shown]
        memory = report.memory_mib.get(target)
        added = [_number(None if its is None else its.added_us) for its in found]
        rows.append([_title(target), *added, _number(memory)])
    return rows


def _measured(report: Report) -> list[Scenario]:
    return [s for s in SCENARIOS if s.name in report.figures()]


def _names(report: Report, shown: Sequence[Scenario]) -> list[str]:
    return list(dict.fromkeys(t for s in shown for t in report.figures()[s.name]))


def _title(target: str) -> str:
    return TITLES.get(target, target)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _cpu(report: Report, scenario: str, target: str) -> str:
    its = report.figures()[scenario].get(target)
    if its is None or its.cpu_us is None:
        return ""
    ratio = report.ratios().get(scenario, {}).get(target)
    mark = " (errors)" if its.errors else ""
    if ratio is None or target == YARDSTICK:
        return _number(its.cpu_us) + mark
    return f"{_number(its.cpu_us)} ({_times(ratio)}){mark}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


def machine_line(report: Report) -> str:
    """Say in one line what it was measured on."""
    m = report.machine
    versions = ", ".join(f"{_title(n)} {v}" for n, v in report.versions.items() if v)
    return (
        f"{m['cpu']}, {m['cores']} cores, Linux {m['kernel']}, Python {m['python']}, "
        f"{m['date']}; {versions}; medians of {report.effort['rounds']} rounds of "
        f"{report.effort['seconds']:g} s; load average before: {m['load_average']}"
    )


def show(report: Report, console: Console) -> None:
    """Print everything."""
    for title, rows in tables(report):
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(rows[0]):
            table.add_column(name, justify="right" if number else "left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    console.print(machine_line(report), f"In brackets: times {YARDSTICK}'s.", highlight=False)
    for name, reason in report.left_out.items():
        console.print(f"Left out: {_title(name)}, for want of {reason}", highlight=False)
    for line in (*verdicts(report), *faults(report)):
        console.print(line, highlight=False)


def markdown(report: Report, chart: str | None) -> str:
    """Return the tables in Markdown."""
    parts = [f"Measured on {machine_line(report)}. In brackets: times {YARDSTICK}'s."]
    for title, rows in tables(report):
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
        parts.append("\n".join([f"**{title}**", "", *lines]))
    if chart is not None:
        parts.append(f"![CPU time next to other gateways]({chart})")
    bars = "\n".join(f"- {line}" for line in verdicts(report))
    return "\n\n".join([*parts, bars]).strip()


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: the page does not have them.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
