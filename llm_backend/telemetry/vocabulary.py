"""What the labels of metrics can say: a closed set, known before the first request.

Labels hold names of the catalog, of the route table, of the configured keys and of enumerations in
the code, or `other`: nothing that a client sends can add a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Final

from llm_backend.telemetry.tally import Labels

OTHER: Final = "other"
NONE: Final = "none"
"""Stands for the model that was awake before a switch, where none was."""

STATUSES: Final = ("2xx", "4xx", "5xx", "gone")
CAUSES: Final = ("none", "switch", "engine_busy", "lease")
OUTCOMES: Final = ("ok", "failed", "cancelled")
RESIDENCIES: Final = ("awake", "asleep-1", "asleep-2", "stopped")
END_REASONS: Final = ("exited", "hung", "oom", "canary", "sleep", "other")
PLACES: Final = ("waiting", "answering")
MEMORY_KINDS: Final = ("total", "used", "free", "foreign")


@dataclass(frozen=True, slots=True)
class ModelLabels:
    """What the series of one model can be about.

    Attributes:
        name: The catalog id.
        routes: The routes that it serves, and whether answers on them may be kept.
        devices: What its engine takes memory of.
        rungs: The levels of sleep that it may take.
    """

    name: str
    routes: Mapping[str, bool] = field(default_factory=dict)
    devices: Sequence[str] = ()
    rungs: Sequence[int] = ()

    @property
    def ways_up(self) -> list[str]:
        """What it comes up from."""
        return ["start", *(f"asleep-{rung}" for rung in self.rungs)]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What labels can say.

    Attributes:
        models: The models that can run here.
        routes: All inference routes.
        keys: Names of the keys that requests can come with.
        codes: Codes of errors.
        states: States of a model.
        stages: Stages of a start and a stop; those of sleep come on top.
        devices: Names of the devices.
        build: Version and set-up.
    """

    models: Sequence[ModelLabels] = ()
    routes: Sequence[str] = ()
    keys: Sequence[str] = ()
    codes: Sequence[str] = ()
    states: Sequence[str] = ()
    stages: Sequence[str] = ()
    devices: Sequence[str] = ()
    build: tuple[str, str] = ("", "")

    @property
    def each(self) -> list[Labels]:
        """One series for each model."""
        return [(model.name,) for model in self.models]

    def requests(self) -> Iterator[Labels]:
        """Yield what can be said of requests: route, model, key, status, cache.

        A request that finds no model, or one that does not serve its route, has the model `other`.
        """
        for model, key in product(self.models, self.keys):
            for route, may_be_kept in model.routes.items():
                for status, cache in _results(may_be_kept=may_be_kept):
                    yield route, model.name, key, status, cache
        for route, key, status in product(self.routes, [*self.keys, OTHER], STATUSES[1:]):
            yield route, OTHER, key, status, "bypass"

    def switches(self) -> Iterator[Labels]:
        """Yield what can be said of switches: from, to, rung, outcome."""
        for to in self.models:
            others = [model.name for model in self.models if model is not to]
            yield from product([NONE, *others], [to.name], to.ways_up, OUTCOMES)

    def ways_up(self) -> Iterator[Labels]:
        """Yield model and rung."""
        return ((model.name, rung) for model in self.models for rung in model.ways_up)

    def all_stages(self) -> Iterator[Labels]:
        """Yield model and stage."""
        for model in self.models:
            nights = (f"{way}_{rung}" for rung in model.rungs for way in ("sleep", "wake"))
            yield from ((model.name, stage) for stage in chain(self.stages, nights))

    def sleep_failures(self) -> Iterator[Labels]:
        """Yield model, step and reason."""
        for model in self.models:
            for rung in model.rungs:
                yield model.name, f"sleep_{rung}", "failed"
                yield model.name, f"wake_{rung}", "failed"
                yield model.name, f"wake_{rung}", "canary"

    def models_with(self, *values: Iterable[str]) -> Iterable[Labels]:
        """Yield each model with each of these values."""
        return product((model.name for model in self.models), *values)


def _results(*, may_be_kept: bool) -> Iterator[tuple[str, str]]:
    yield from ((status, "bypass") for status in STATUSES)
    if may_be_kept:
        yield from ((status, "miss") for status in STATUSES)
        yield from ((status, "hit") for status in STATUSES if status != "4xx")
