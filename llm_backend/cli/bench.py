"""`llm-backend bench`: how quickly a model answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llm_backend.cli import bench_chart
from llm_backend.cli.bench_figures import Line, Spread, verdict
from llm_backend.cli.bench_load import IMAGE, LONG, SHORT, Effort, Load, Prompts
from llm_backend.cli.door import Door, door
from llm_backend.cli.options import AsJson, complete_model
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Report, Terminal
from llm_backend.client import Model
from llm_backend.errors import InvalidRequest, LLMBackendError, ModelNotFound, SetupError
from llm_backend.wire import JSONObject

HEADINGS = (
    "PROMPT",
    "AT ONCE",
    "REQUESTS",
    "FAILED",
    "TTFT p50",
    "p95",
    "p99 ms",
    "TOKENS/S p50",
    "p95",
    "ALL",
)
INTERRUPTED = 130
MOST_AT_ONCE = 256


class Kind(StrEnum):
    """What a prompt may be."""

    SHORT = SHORT
    LONG = LONG
    IMAGE = IMAGE


def bench(  # noqa: PLR0913, PLR0917  # an argument for each option
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Id or alias.", autocompletion=complete_model),
    ],
    concurrency: Annotated[
        str, typer.Option(metavar="N,N...", help="How many requests at once.")
    ] = "1,2,4,8",
    prompt: Annotated[
        list[Kind] | None,
        typer.Option(
            help="Kind of prompt; may be given again. By default short, long, and image where "
            "the model takes images."
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Requests of each line, at most.")
    ] = 32,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=3600,
            metavar="S",
            help="How long each line sends requests; those under way get as long again.",
        ),
    ] = 20,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")
    ] = 64,
    chart: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the figures, as PNG; needs matplotlib."),
    ] = None,
    assert_ttft_ms: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MS",
            help="Exit with 1 unless 95 % of the first line's requests had their first token "
            "within so many milliseconds, and none failed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how quickly a model answers.

    Time to the first token and tokens per second, for short and long prompts and images, at
    rising concurrency. The model is loaded first, which is not in the figures; nothing comes out
    of the cache. Ctrl-C ends it and shows what there is.
    """
    if chart is not None:
        bench_chart.require(chart)
    plan = Plan(model, _numbers(concurrency), tuple(prompt or ()), max_tokens)
    terminal = Terminal(as_json=as_json)
    found = Found()
    with door(terminal, open_project(), model) as way, terminal.progress(model) as report:
        try:
            asyncio.run(_measure(way, plan, Effort(requests, seconds), found, report))
        except KeyboardInterrupt:
            found.interrupted = True
        except LLMBackendError as error:
            if not found.lines:
                raise
            found.failure = error.message
    if chart is not None and found.lines:
        _draw(chart, found, max_tokens)
    missed = None if assert_ttft_ms is None else verdict(found.lines, assert_ttft_ms)
    _show(terminal, found, missed)
    raise typer.Exit(_code(found, missed))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        model: Id or alias.
        concurrencies: Requests at once, in rising order.
        kinds: Kinds of prompts; empty for all that the model takes.
        max_tokens: The longest answer.
    """

    model: str
    concurrencies: tuple[int, ...]
    kinds: tuple[str, ...]
    max_tokens: int

    def kinds_for(self, model: Model) -> tuple[str, ...]:
        """Return the kinds of prompts that are asked, shortest first.

        Raises:
            InvalidRequest: images are wanted and the model takes none.
        """
        able = "vision" in model.capabilities
        if IMAGE in self.kinds and not able:
            raise InvalidRequest(
                f"{model.id} takes no images.", hint="Leave out --prompt image.", param="prompt"
            )
        possible = (SHORT, LONG, IMAGE) if able else (SHORT, LONG)
        return tuple(kind for kind in possible if not self.kinds or kind in self.kinds)


@dataclass(slots=True)
class Found:
    """What was measured so far; whoever is interrupted keeps it.

    Attributes:
        model: The id of the model.
        lines: What is complete.
        interrupted: Whether a person ended it.
        failure: What else ended it early, or went wrong afterwards.
    """

    model: str = ""
    lines: list[Line] = field(default_factory=list)
    interrupted: bool = False
    failure: str | None = None


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    # Of many digits Python makes no number at all.
    numbers = sorted({int(part) for part in parts if part.isdecimal() and len(part) < 10})
    wrong = [part for part in parts if not part.isdecimal() or len(part) >= 10]
    if wrong or not 1 <= numbers[0] <= numbers[-1] <= MOST_AT_ONCE:
        raise typer.BadParameter(
            f"--concurrency {text!r}: numbers from 1 to {MOST_AT_ONCE}, such as 1,2,4,8."
        )
    return tuple(numbers)


async def _measure(way: Door, plan: Plan, effort: Effort, found: Found, report: Report) -> None:
    async with way.client() as patient, way.client(repeats=False) as client:
        model = _named(await patient.models(), plan.model)
        found.model = model.id
        prompts = Prompts(model.max_model_len, plan.max_tokens)
        load = Load(client, model.id, prompts, plan.max_tokens)
        for kind in plan.kinds_for(model):
            await load.warm_up(patient, kind, report)
            for concurrency in plan.concurrencies:
                step = _step(report, f"{kind} prompts, {concurrency} at once", effort.requests)
                await load.measure(kind, concurrency, effort, found.lines, step)


def _named(models: Sequence[Model], name: str) -> Model:
    for model in models:
        if name == model.id or name in model.aliases:
            return model
    known = ", ".join(model.id for model in models) or "none"
    raise ModelNotFound(
        f"The gateway offers no model {name!r}; it offers {known}.", hint="llm-backend models"
    )


def _step(report: Report, text: str, requests: int) -> Callable[[int], None]:
    report(text, 0.0)
    return lambda done: report(text, done / requests)


def _draw(path: Path, found: Found, max_tokens: int) -> None:
    title = f"{found.model}, answers of {max_tokens} tokens"
    try:
        bench_chart.draw(path, title, found.lines)
    except SetupError as error:  # no reason to withhold the figures
        found.failure = error.message


def _show(terminal: Terminal, found: Found, missed: str | None) -> None:
    if terminal.as_json:
        terminal.result(_as_json(found, missed))
        return
    if found.lines:
        terminal.table(HEADINGS, [_row(line) for line in found.lines])
    for text in _notes(found, missed):
        terminal.note(text)


def _as_json(found: Found, missed: str | None) -> JSONObject:
    return {
        "model": found.model,
        "interrupted": found.interrupted,
        "missed": missed,
        "failure": found.failure,
        "lines": [line.as_json() for line in found.lines],
    }


def _row(line: Line) -> tuple[str, ...]:
    ttft, rate = line.ttft_ms, line.tokens_per_s
    return (
        line.prompt,
        str(line.concurrency),
        str(line.requests),
        str(line.failed),
        *_cells(ttft, "p50", "p95", "p99"),
        *_cells(rate, "p50", "p95"),
        f"{line.total_tokens_per_s:.1f}",
    )


def _cells(spread: Spread | None, *names: str) -> tuple[str, ...]:
    return tuple("-" if spread is None else f"{getattr(spread, name):.1f}" for name in names)


def _notes(found: Found, missed: str | None) -> list[str]:
    notes = [
        f"{line.prompt}, {line.concurrency} at once: {line.failed} failed: {line.failure}"
        for line in found.lines
        if line.failed
    ]
    away = sum(line.away for line in found.lines)
    if away:
        notes.append(f"{away} requests are left out: another model had the device meanwhile.")
    if found.interrupted:
        notes.append("Interrupted: the figures are of what was complete by then.")
    return [*notes, *(text for text in (found.failure, missed) if text is not None)]


def _code(found: Found, missed: str | None) -> int:
    if found.interrupted:
        return INTERRUPTED
    nothing = not any(line.requests for line in found.lines)
    return 1 if missed is not None or found.failure is not None or nothing else 0
