"""`llm-backend replay`: how a trace would have fared under this policy and that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_backend.cli.options import AsJson
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal, duration
from llm_backend.config import Settings
from llm_backend.core import rules_of
from llm_backend.errors import SetupError
from llm_backend.replay import chart
from llm_backend.replay.profile import Profile, load_profile, profile_names
from llm_backend.replay.result import Result, Waits
from llm_backend.replay.shipped import SHIPPED, shipped_trace
from llm_backend.replay.simulate import Conditions, simulate
from llm_backend.replay.trace import Trace, read_trace


class Policy(StrEnum):
    """What may decide."""

    FIFO = "fifo"
    FAIR = "fair"


BAR, STRIP = 40, 72
"""Columns of the longest bar, and of the strip that shows who was awake."""


def complete_trace(beginning: str) -> Iterable[str]:
    """Return the shipped traces that begin so, for the shell's completion."""
    return [name for name in SHIPPED if name.startswith(beginning)]


def replay(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE",
            help=f"A file that switching.record made the gateway write; or one that comes with "
            f"the product: {', '.join(SHIPPED)}; or random:SEED.",
            autocompletion=complete_trace,
        ),
    ],
    policy: Annotated[
        list[Policy] | None,
        typer.Option("--policy", help="May be given several times. By default fifo and fair."),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="What switches and answers cost: a JSON file, or one that comes with the product: "
            f"{', '.join(profile_names())}.",
            metavar="PROFILE",
        ),
    ] = "rtx5080-awq",
    seed: Annotated[
        int, typer.Option(help="Decides how far starts and stops are off.", metavar="N")
    ] = 0,
    svg: Annotated[
        Path | None, typer.Option(help="Draw when which model was awake.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run recorded or made-up requests through the scheduler, without any engine.

    Shows what each policy makes of them: switches, waits, what the device did. The other settings
    are those of this checkout.
    """
    terminal = Terminal(as_json=as_json)
    asked, costs = find_trace(trace), load_profile(profile)
    settings = open_project().settings
    results = [
        simulate(asked, costs, conditions(settings, one, seed))
        for one in dict.fromkeys(policy or Policy)
    ]
    if svg is not None:
        _draw(svg, results)
    if as_json:
        terminal.result(_as_json(asked, costs, seed, results))
        return
    _tell(terminal, asked, costs, results)


def conditions(settings: Settings, policy: Policy, seed: int) -> Conditions:
    """Return the conditions of a gateway with these settings that switches by this policy."""
    rules = replace(rules_of(settings, capacity={}), mode="auto", policy=policy.value)
    return Conditions(rules, settings.limits.queue_timeout_s, seed)


def find_trace(name: str) -> Trace:
    """Return the trace of this name, seed or path.

    Raises:
        SetupError: there is none, or it is wrong; names file and line.
    """
    shipped = shipped_trace(name)
    if shipped is not None:
        return shipped
    if not Path(name).exists():
        raise SetupError(
            f"There is no trace {name!r}, neither with the product nor as a file.",
            hint=f"There are {', '.join(SHIPPED)}. A random one: llm-backend replay random:1",
        )
    return read_trace(Path(name))


def _draw(path: Path, results: Sequence[Result]) -> None:
    try:
        path.write_text(chart.svg(results), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}.") from None


def _as_json(
    trace: Trace, profile: Profile, seed: int, results: Sequence[Result]
) -> dict[str, Any]:
    return {
        "trace": trace.name,
        "requests": len(trace.arrivals),
        "profile": {"name": profile.name, "basis": profile.basis, "about": profile.about},
        "seed": seed,
        "results": [_rounded(asdict(result)) for result in results],
    }


def _rounded(value: Any) -> Any:
    """Return a JSON value without the digits that nobody measures."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case _:
            return value


def _tell(terminal: Terminal, trace: Trace, profile: Profile, results: Sequence[Result]) -> None:
    models = ", ".join(trace.models)
    terminal.say(f"{trace.name}: {len(trace.arrivals)} requests for {models}")
    terminal.say(f"{profile.name}, {profile.basis}: {profile.about}", style="dim")
    terminal.say()
    columns = [_figures(result) for result in results]
    rows = [(name, *(figures[name] for figures in columns)) for name in columns[0]]
    terminal.table(("", *(result.policy for result in results)), rows)
    _bars(terminal, "Switches", results, lambda r: r.switches, "{:.0f}")
    _bars(terminal, "Interactive wait, p95", results, lambda r: r.interactive.p95_s, "{:.0f} s")
    names = chart.letters(results)
    terminal.say()
    key = ", ".join(f"{letter} {model}" for model, letter in names.items())
    terminal.say(f"Awake over the time: {key}, {chart.NOBODY} none; small: for a part of it")
    for result in results:
        terminal.say(f"  {result.policy:<6}{chart.strip(result, names, STRIP)}")


def _bars(
    terminal: Terminal,
    title: str,
    results: Sequence[Result],
    value: Callable[[Result], float],
    form: str,
) -> None:
    most = max(map(value, results)) or 1.0
    terminal.say()
    terminal.say(title)
    for result in results:
        length = chart.bar(value(result), most, BAR)
        terminal.say(f"  {result.policy:<6}{length} {form.format(value(result))}")


def _figures(result: Result) -> dict[str, str]:
    use, off, served = result.use, result.estimate_error, result.ends["served"]
    return {
        "switches": str(result.switches),
        "interactive wait": _waits(result.interactive),
        "batch wait": _waits(result.batch),
        "served": f"{served} of {result.requests}",
        "device serving": f"{use.serving:.0%}",
        "device switching": f"{use.switching:.0%}",
        "device idle": f"{use.idle:.0%}",
        "estimates off by": "-" if off is None else f"{off:.0%}",
        "all took": duration(result.seconds),
    }


def _waits(waits: Waits) -> str:
    if not waits.count:
        return "-"
    return f"p50 {waits.p50_s:.0f} s, p95 {waits.p95_s:.0f} s, max {waits.max_s:.0f} s"
