"""How `llm-backend top` looks: what is known of a gateway, drawn for a window of any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_backend.cli.snapshot import Rate, Snapshot
from llm_backend.cli.terminal import duration, mib
from llm_backend.wire import JSONObject

WIDE: Final = 100
"""From this many columns on everything has room."""

NARROW: Final = 60
"""Below this many only what matters most is shown."""

BAR: Final = 40
"""Columns of a bar, where there is room."""

SWITCHES: Final = 5
"""Past switches that are shown."""

FREE: Final = "free"
"""Stands where others have the name of who holds memory."""

STATES: Final = {"awake": "green", "failed": "red", "starting": "yellow", "draining": "yellow"}
OUTCOMES: Final = {"ok": "green", "failed": "red", "cancelled": "yellow"}
_ENGINES: Final = ("cyan", "magenta", "blue")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is shown.

    Attributes:
        url: Where the gateway is.
        setup: `local` or `compose`.
        snapshot: The last that is known of it; None before the first.
        rates: By model.
        age_s: How old that is, in seconds; 0 while the gateway does not answer.
        stages: Seconds of each stage of the running switch that is over.
        lost_s: For how many seconds it has not answered; None while it does.
        why: What came instead of an answer.
    """

    url: str
    setup: str = ""
    snapshot: Snapshot | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)
    age_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    lost_s: float | None = None
    why: str = ""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Group(*self._parts(options.max_width))

    def _parts(self, width: int) -> Iterator[RenderableType]:
        yield self._head()
        if self.snapshot is None:
            return
        status, health = self.snapshot.status, self.snapshot.health
        for name, device in health.get("devices", {}).items():
            yield Text()
            yield from _device(name, device, status, width)
        for name in health.get("unwatched_devices", []):
            yield Text(f"{name}  its memory cannot be read")
        yield Text()
        yield self._models(status, width)
        yield from _queue(status.get("queue", {}))
        yield Text()
        yield from self._switch(status.get("switch"), width)
        yield from _past(self.snapshot.history.get("switches", []), width)

    def _head(self) -> Text:
        if self.lost_s is not None:
            text = f"Lost the gateway at {self.url} {duration(self.lost_s)} ago: {self.why} "
            old = "What follows is from then." if self.snapshot else ""
            return Text(f"{text}Trying again. {old}".strip(), style="bold red")
        if self.snapshot is None:
            return Text(f"Asking {self.url}")
        gateway = self.snapshot.health.get("gateway", {})
        well = self.snapshot.health.get("status")
        facts = (
            f"llm-backend {gateway.get('version')}",
            self.url,
            self.setup,
            f"up {duration(gateway.get('uptime_s', 0.0))}",
        )
        style = "green" if well == "ok" else "bold yellow"
        return Text.assemble(", ".join(filter(None, facts)), ", ", (str(well), style))

    def _models(self, status: JSONObject, width: int) -> Table:
        table = _table("MODEL", "STATE")
        for heading in ("RUNS", "WAITS"):
            table.add_column(heading, justify="right")
        if width >= NARROW:
            for heading in ("REQ/S", "TOK/S", "WAIT"):
                table.add_column(heading, justify="right")
        if width >= WIDE:
            table.add_column("MEMORY", justify="right")
            table.add_column("NOTE", overflow="ellipsis", no_wrap=True, ratio=1)
        waits = status.get("queue", {}).get("wait_s", {})
        for model in status.get("models", []):
            cells = self._cells(model, waits.get(model["id"]))
            table.add_row(*cells[: len(table.columns)])
        return table

    def _cells(self, model: JSONObject, wait_s: float | None) -> Sequence[Text]:
        rate = self.rates.get(model["id"], Rate())
        state = model["state"] if model.get("available", True) else "not here"
        residency = str(model.get("residency", ""))
        shown = residency if residency.startswith("asleep") else state
        memory = sum(model.get("memory_mib", {}).values())
        note = model.get("reason") or model.get("unavailable_reason") or ""
        return (
            Text(model["id"], style="bold" if state == "awake" else ""),
            Text(shown, style=STATES.get(state, "")),
            Text(_count(model["inflight"])),
            Text(_count(model["waiting"])),
            Text(_pace(rate.requests)),
            Text(_pace(rate.tokens)),
            Text("" if wait_s is None else duration(wait_s)),
            Text(mib(memory) if memory else ""),
            Text(note),
        )

    def _switch(self, switch: JSONObject | None, width: int) -> Iterator[RenderableType]:
        if not switch:
            return
        elapsed_s = (switch.get("elapsed_s") or 0.0) + self.age_s
        left_s = switch.get("estimate_s")
        way = f"{switch['from']} to {switch.get('to')}" if switch.get("from") else switch.get("to")
        progress: JSONObject = switch.get("progress") or {}
        parts = [progress.get("text") or switch.get("step"), f"for {duration(elapsed_s)}"]
        if left_s is not None:
            parts.append(f"about {duration(max(0.0, left_s - self.age_s))} left")
        yield Text.assemble(("Switch  ", "bold"), f"{way}: ", ", ".join(map(str, parts)))
        share = _share(elapsed_s, left_s, progress.get("fraction"), self.age_s)
        if share is not None:
            length = min(BAR, width - 14)
            yield Text.assemble(" " * 8, *_filled(share, length), f" {share:.0%}")
        done = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
        if done:
            yield Text(f"        done: {done}", style="dim")
        yield Text()


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    return table


def _count(number: int) -> str:
    return str(number) if number else "-"


def _pace(number: float) -> str:
    return "-" if number <= 0 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def _share(
    elapsed_s: float, left_s: float | None, told: float | None, age_s: float
) -> float | None:
    """Return how much of a switch is over: by its time where that is known, else as it says."""
    if left_s is None:
        return told
    whole_s = elapsed_s - age_s + left_s
    return min(elapsed_s / max(whole_s, 0.1), 0.99)


def _filled(share: float, length: int) -> tuple[tuple[str, str], tuple[str, str]]:
    full = round(max(0.0, min(share, 1.0)) * length)
    return ("━" * full, "yellow"), ("─" * (length - full), "dim")


def _device(name: str, device: JSONObject, status: JSONObject, width: int) -> Iterator[Text]:
    parts = _holders(name, device, status)
    total = max(device["total_mib"], 1)
    length = max(10, min(BAR, width - len(name) - 2))
    bar = Text(f"{name}  ", style="bold")
    begin = held = 0
    for who, size, style in parts:
        held += size
        end = min(length, round(held / total * length))
        bar.append(("·" if who == FREE else "█") * (end - begin), style=style)
        begin = end
    yield bar
    told = ", ".join(f"{who} {mib(size)}" for who, size, _ in parts)
    yield Text(f"{' ' * (len(name) + 2)}{told} of {mib(device['total_mib'])}")
    for lease in status.get("leases", []):
        if lease["device"] == name:
            much = "all" if lease["mib"] is None else mib(lease["mib"])
            left_s = duration(lease["expires_in_s"])
            yield Text(
                f"{' ' * (len(name) + 2)}leased: {much} for {left_s} more: {lease['reason']}"
            )


def _holders(name: str, device: JSONObject, status: JSONObject) -> list[tuple[str, int, str]]:
    """Return who has how many MiB of a device, and how that is drawn; what is free comes last."""
    free = device["free_mib"]
    used = max(0, device["total_mib"] - free)
    foreign = device.get("foreign_mib")
    left = used if foreign is None else max(0, used - foreign)
    parts: list[tuple[str, int, str]] = []
    for model in status.get("models", []):
        size = min(left, model.get("memory_mib", {}).get(name, 0))
        if size > 0:
            parts.append((model["id"], size, _ENGINES[len(parts) % len(_ENGINES)]))
            left -= size
    others = used - sum(size for _, size, _ in parts)
    if others > 0:
        parts.append(("others" if parts else "used", others, "white"))
    return [*parts, (FREE, free, "dim")]


def _queue(queue: JSONObject) -> Iterator[Text]:
    if not queue.get("length"):
        return
    waits = queue.get("wait_s", {})
    whose = (
        f"{count} for {model}" + (f" (about {duration(waits[model])})" if model in waits else "")
        for model, count in queue.get("by_model", {}).items()
    )
    yield Text(f"Queue   {queue['length']} of {queue.get('limit')}: {', '.join(whose)}")


def _past(switches: Sequence[Mapping[str, Any]], width: int) -> Iterator[RenderableType]:
    if not switches:
        return
    yield Text("Last switches", style="bold")
    table = _table("AT", "FROM", "TO")
    table.add_column("TOOK", justify="right")
    if width >= NARROW:
        table.add_column("EXPECTED", justify="right")
        table.add_column("OUTCOME")
        table.add_column("WAY")
    for past in list(switches)[-SWITCHES:][::-1]:
        began = datetime.fromisoformat(past["began_at"]).astimezone()
        expected_s = past.get("estimate_s")
        cells = (
            Text(f"{began:%H:%M:%S}"),
            Text(past["from"] or "-"),
            Text(past["to"] or "-"),
            Text(f"{past['seconds']:.1f} s"),
            Text("" if expected_s is None else f"{expected_s:.1f} s"),
            Text(past["outcome"], style=OUTCOMES.get(past["outcome"], "")),
            Text("cold" if past["rung"] == "start" else f"woken, {past['rung']}"),
        )
        table.add_row(*cells[: len(table.columns)])
    yield table
