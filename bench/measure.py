"""Measuring: each scenario on each target in turn, several rounds, all other targets frozen."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.processes import cpu_ns, freeze, rss_mib, thaw
from bench.programs import Outcome, load
from bench.scenarios import SCENARIOS, Scenario, body
from bench.targets import DIRECT, KEY, MODEL, Target
from bench.waiting import post

MARKER = "The quick brown fox jumps over the lazy dog."
"""What the mock engine answers; a target that writes the answer anew has to keep it."""

WARM_UP_EVENTS = 10

_WITH_HEADER = frozenset(s.name for s in SCENARIOS if s.header is not None)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: How often everything is measured; medians count.
        seconds: Of each scenario of requests.
        warm_up_s: Before that.
        events: Of each stream.
    """

    rounds: int
    seconds: float
    warm_up_s: float
    events: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario on one target in one round.

    Attributes:
        scenario: Its name.
        target: Its name.
        round: Counted from 0.
        outcome: What the load generator saw.
        cpu_us: CPU time of the target for one request or chunk; None for the mock engine itself.
    """

    scenario: str
    target: str
    round: int
    outcome: Outcome
    cpu_us: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of one scenario on one target.

    Attributes:
        cpu_us: CPU time for one request or chunk, in microseconds; None for no gateway.
        p50_us: Latency; of streams the time to the first event.
        p99_us: The same.
        added_us: Median latency above that without a gateway in the same round; None without it.
        gap_p99_us: Time between two events of a stream; 0 for requests.
        per_second: Good answers or chunks.
        marked: Share of the answers with the header that the scenario is about; 1 without one.
        errors: In all rounds.
        first_error: The first of them.
    """

    cpu_us: float | None
    p50_us: float
    p99_us: float
    added_us: float | None
    gap_p99_us: float
    per_second: float
    marked: float
    errors: int
    first_error: str


class Bench:
    """Measures running targets.

    Args:
        targets: All are frozen except the one under measurement.
        folder: For the bodies of requests.
        core: The core of the load generator.
        effort: How long is measured.
    """

    def __init__(self, targets: Sequence[Target], folder: Path, core: int, effort: Effort) -> None:
        self._targets = targets
        self._folder = folder
        self._core = core
        self._effort = effort

    def run(self, scenarios: Iterable[Scenario], tell: Callable[[str], None]) -> list[Sample]:
        """Measure all scenarios; `tell` says what is being done."""
        samples = []
        for number in range(self._effort.rounds):
            for scenario in scenarios:
                # Each target is the first one once, so that none always follows the same one.
                for place in range(len(self._targets)):
                    target = self._targets[(place + number) % len(self._targets)]
                    if target.takes(scenario):
                        tell(f"round {number + 1}: {scenario.title}, {target.name}")
                        samples.append(self._measured(scenario, target, number))
        return samples

    def memory_mib(self) -> dict[str, float]:
        """Return what each target holds in memory now."""
        return {t.name: rss_mib(t.processes) for t in self._targets if t.root is not None}

    def _measured(self, scenario: Scenario, target: Target, number: int) -> Sample:
        thaw(target.processes)
        try:
            self._warm_up(scenario, target)
            arguments = self._arguments(scenario, target, self._effort.seconds)
            before = cpu_ns(target.processes)
            outcome = load(self._core, arguments)
            spent_us = (cpu_ns(target.processes) - before) / 1000
        finally:
            freeze(target.processes)
        units = outcome.answers if scenario.unit == "request" else outcome.events
        cpu_us = None if target.root is None or not units else spent_us / units
        return Sample(scenario.name, target.name, number, outcome, cpu_us)

    def _warm_up(self, scenario: Scenario, target: Target) -> None:
        if scenario.header == "x-cache: hit" and not scenario.different:
            request = self._body(scenario, 0).read_bytes()
            post(target.port, "/v1/chat/completions", request, {"authorization": f"Bearer {KEY}"})
        if scenario.different:
            self._fill(scenario, target)
        load(self._core, self._arguments(scenario, target, self._effort.warm_up_s, warm_up=True))

    def _fill(self, scenario: Scenario, target: Target) -> None:
        """Have the target cache every answer of a scenario in which the bodies repeat."""
        for seconds in (1, 2, 4, 8, 16):
            arguments = self._arguments(scenario, target, seconds, warm_up=True)
            if load(self._core, arguments).answers > scenario.different:
                return

    def _arguments(
        self, scenario: Scenario, target: Target, seconds: float, *, warm_up: bool = False
    ) -> list[str]:
        events = WARM_UP_EVENTS if warm_up else self._effort.events
        arguments = [
            *("-p", str(target.port), "-c", str(scenario.connections)),
            *("-b", str(self._body(scenario, events)), "-H", f"authorization: Bearer {KEY}"),
        ]
        if scenario.unit == "chunk":
            return [*arguments, "-s", str(events)]
        arguments += "-d", f"{seconds:g}"
        arguments += ("-e", str(self._expected())) if target.exact else ("-m", MARKER)
        if scenario.header is not None and not warm_up:
            arguments += "-x", scenario.header
        if scenario.different:
            arguments += "-u", "0", "-k", str(scenario.different)
        elif scenario.body == "unique":
            arguments += "-u", str(secrets.randbits(62))
        return arguments

    def _body(self, scenario: Scenario, events: int) -> Path:
        """Return the file with the body of a scenario's requests."""
        name = f"stream-{events}" if scenario.body == "stream" else scenario.body
        path = self._folder / f"{name}.json"
        if not path.exists():
            path.write_bytes(body(scenario.body, MODEL, events))
        return path

    def _expected(self) -> Path:
        """Return the file with the answer of the mock engine, asked for once."""
        path = self._folder / "answer.json"
        if not path.exists():
            engine = next(target for target in self._targets if target.root is None)
            request = body("short", MODEL, 1)
            path.write_bytes(post(engine.port, "/v1/chat/completions", request, {})[1])
        return path


def medians(samples: Iterable[Sample]) -> dict[str, dict[str, Figures]]:
    """Return the figures by scenario and target."""
    rounds: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        rounds.setdefault(sample.scenario, {}).setdefault(sample.target, []).append(sample)
    return {
        scenario: {name: _figures(its, by_target) for name, its in by_target.items()}
        for scenario, by_target in rounds.items()
    }


def _figures(samples: Sequence[Sample], rivals: Mapping[str, Sequence[Sample]]) -> Figures:
    outcomes = [sample.outcome for sample in samples]
    cpu = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
    base = {sample.round: sample.outcome.p50_us for sample in rivals.get(DIRECT, ())}
    added = [s.outcome.p50_us - base[s.round] for s in samples if s.round in base]
    faults = [outcome.first_error for outcome in outcomes if outcome.errors]
    return Figures(
        cpu_us=statistics.median(cpu) if cpu else None,
        p50_us=statistics.median(o.p50_us for o in outcomes),
        p99_us=statistics.median(o.p99_us for o in outcomes),
        added_us=statistics.median(added) if added and samples[0].target != DIRECT else None,
        gap_p99_us=statistics.median(o.gap_p99_us for o in outcomes),
        per_second=statistics.median(
            (o.events or o.answers) / o.seconds if o.seconds else 0.0 for o in outcomes
        ),
        marked=_marked(samples),
        errors=sum(outcome.errors for outcome in outcomes),
        first_error=faults[0] if faults else "",
    )


def _marked(samples: Sequence[Sample]) -> float:
    if samples[0].scenario not in _WITH_HEADER:
        return 1.0
    answers = sum(sample.outcome.answers for sample in samples)
    return sum(sample.outcome.marked for sample in samples) / answers if answers else 0.0


def as_json(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return the samples as the JSON file keeps them."""
    return [asdict(sample) for sample in samples]


def from_json(kept: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """Return the samples that a JSON file keeps."""
    return [Sample(**{**entry, "outcome": Outcome(**entry["outcome"])}) for entry in kept]
