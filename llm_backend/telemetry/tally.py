"""Series as this gateway keeps them: counters, histograms and gauges with a closed set of labels.

Those of prometheus_client take a lock for each number, and six of them cost more than a look-up in
the cache. Here one thread counts, the one of the event loop; a scrape may read from any. What a
scrape says again each time, a name with its labels, is written once, when a series is declared.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isnan
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class About:
    """What a family of series is.

    Attributes:
        name: As it is exported, with unit and, of a counter, `_total`.
        kind: Its type.
        text: What it says, for people.
        labels: Their names.
    """

    name: str
    kind: Kind
    text: str
    labels: Sequence[str]

    def empty(self) -> Metric:
        """Return the family without its series, for the registry."""
        name = self.name.removesuffix("_total") if self.kind == "counter" else self.name
        return Metric(name, self.text, self.kind)

    def head(self) -> str:
        """Return the two lines that lead its series."""
        return f"# HELP {self.name} {_plain(self.text)}\n# TYPE {self.name} {self.kind}\n"

    def start(self, suffix: str, labels: Labels, **more: str) -> str:
        """Return how the line of a series begins."""
        pairs = sorted({**dict(zip(self.labels, labels, strict=True)), **more}.items())
        inside = ",".join(f'{name}="{_quoted(value)}"' for name, value in pairs)
        return f"{self.name}{suffix}{{{inside}}} " if inside else f"{self.name}{suffix} "


class Family(Collector):
    """What all kinds have in common.

    Args:
        about: What it is.
        registry: Where it is collected.
    """

    def __init__(self, about: About, registry: CollectorRegistry) -> None:
        self.about = about
        self._head = about.head()
        registry.register(self)

    @abstractmethod
    def declare(self, series: Iterable[Labels]) -> None:
        """Begin series; there are no others."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield the lines of all series, each with its end."""

    @abstractmethod
    def samples(self) -> Iterator[tuple[str, Labels, dict[str, str], float]]:
        """Yield suffix of the name, labels, labels that come on top, and value."""

    def text(self) -> str:
        """Return the whole family in the text format of Prometheus."""
        return self._head + "".join(self.lines())

    def describe(self) -> Iterator[Metric]:
        """Yield the name and type, for the registry."""
        yield self.about.empty()

    def collect(self) -> Iterator[Metric]:
        """Yield all series, for other ways to write them down."""
        metric = self.about.empty()
        total = "_total" if self.about.kind == "counter" else ""
        for suffix, labels, more, value in self.samples():
            pairs = {**dict(zip(self.about.labels, labels, strict=True)), **more}
            metric.add_sample(f"{metric.name}{total}{suffix}", pairs, value)
        yield metric


class Counts(Family):
    """A counter."""

    def __init__(self, about: About, registry: CollectorRegistry) -> None:
        self._values: dict[Labels, float] = {}
        self._starts: list[str] = []
        super().__init__(about, registry)

    def __contains__(self, series: Labels) -> bool:
        return series in self._values

    def declare(self, series: Iterable[Labels]) -> None:
        """Begin series at 0; there are no others."""
        fresh = dict.fromkeys(labels for labels in series if labels not in self._values)
        self._starts += [self.about.start("", labels) for labels in fresh]
        self._values |= dict.fromkeys(fresh, 0.0)

    def add(self, series: Labels, amount: float = 1.0) -> None:
        """Count.

        Raises:
            KeyError: there is no such series.
        """
        self._values[series] += amount

    def lines(self) -> Iterator[str]:
        """Yield the lines of all series, each with its end."""
        pairs = zip(self._starts, list(self._values.values()), strict=True)
        return (f"{start}{value}\n" for start, value in pairs)

    def samples(self) -> Iterator[tuple[str, Labels, dict[str, str], float]]:
        """Yield suffix of the name, labels, labels that come on top, and value."""
        for labels, value in list(self._values.items()):
            yield "", labels, {}, value


class Gauges(Family):
    """A gauge; or a counter that somebody else keeps."""

    def __init__(self, about: About, registry: CollectorRegistry) -> None:
        self._values: dict[Labels, float] = {}
        self._starts: dict[Labels, str] = {}
        self._read: Callable[[], Mapping[Labels, float]] = dict
        super().__init__(about, registry)

    def declare(self, series: Iterable[Labels], value: float = 0.0) -> None:
        """Begin series with this value; there are no others."""
        for labels in series:
            self._starts[labels] = self.about.start("", labels)
            self._values[labels] = value

    def set(self, series: Labels, value: float) -> None:
        """Set a value.

        Raises:
            KeyError: there is no such series.
        """
        self._values |= self._known({series: value})

    def follow(self, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Ask for values when there is a scrape; `read` may block, and is called in any thread."""
        self._read = read

    def lines(self) -> Iterator[str]:
        """Yield the lines of all series, each with its end."""
        return (f"{self._starts[labels]}{_number(value)}\n" for labels, value in self._now())

    def samples(self) -> Iterator[tuple[str, Labels, dict[str, str], float]]:
        """Yield suffix of the name, labels, labels that come on top, and value."""
        for labels, value in self._now():
            yield "", labels, {}, value

    def _now(self) -> Iterable[tuple[Labels, float]]:
        return {**self._values, **self._known(self._read())}.items()

    def _known(self, values: Mapping[Labels, float]) -> Mapping[Labels, float]:
        if unknown := values.keys() - self._values.keys():
            raise KeyError(unknown.pop())
        return values


class Times(Family):
    """A histogram.

    Args:
        about: What it is.
        registry: Where it is collected.
        bounds: Upper ends of the buckets, rising.
    """

    def __init__(self, about: About, registry: CollectorRegistry, bounds: Sequence[float]) -> None:
        self._bounds = tuple(map(float, bounds))
        self._names = [*map(str, self._bounds), "+Inf"]
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        self._starts: dict[Labels, list[str]] = {}
        super().__init__(about, registry)

    def declare(self, series: Iterable[Labels]) -> None:
        """Begin series without a value; there are no others."""
        for labels in series:
            self._buckets[labels] = [0] * len(self._names)
            self._sums[labels] = 0.0
            ends = [self.about.start("_bucket", labels, le=name) for name in self._names]
            others = [self.about.start(suffix, labels) for suffix in ("_count", "_sum")]
            self._starts[labels] = [*ends, *others]

    def observe(self, series: Labels, value: float) -> None:
        """Take a value in.

        Raises:
            KeyError: there is no such series.
        """
        self._buckets[series][bisect_left(self._bounds, value)] += 1
        self._sums[series] += value

    def lines(self) -> Iterator[str]:
        """Yield the lines of all series, each with its end."""
        for labels, counts in self._buckets.items():
            below = list(accumulate(counts))
            values = (*below, below[-1], self._sums[labels])
            pairs = zip(self._starts[labels], values, strict=True)
            yield "".join([f"{start}{value}\n" for start, value in pairs])

    def samples(self) -> Iterator[tuple[str, Labels, dict[str, str], float]]:
        """Yield suffix of the name, labels, labels that come on top, and value."""
        for labels, counts in self._buckets.items():
            below = list(accumulate(counts))
            for name, count in zip(self._names, below, strict=True):
                yield "_bucket", labels, {"le": name}, count
            yield "_count", labels, {}, below[-1]
            yield "_sum", labels, {}, self._sums[labels]


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    return {inf: "+Inf", -inf: "-Inf"}.get(value) or str(float(value))


def _plain(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(value: str) -> str:
    return _plain(value).replace('"', r"\"")
