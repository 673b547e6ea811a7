"""Counters and histograms for what happens with every request.

Those of prometheus_client take a lock for each number, and six of them cost more than a look-up in
the cache. Here one thread counts, the one of the event loop; a scrape may read from any.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter.

    Args:
        name: Without the suffix `_total`.
        text: What is counted.
        labels: Their names.
        registry: Where it is collected.
    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._about = (name, text)
        self._labels = labels
        self._values: dict[Labels, float] = {}
        registry.register(self)

    def declare(self, series: Iterable[Labels]) -> None:
        """Begin series at 0; there are no others."""
        self._values |= dict.fromkeys(series, 0.0)

    def add(self, series: Labels, amount: float = 1.0) -> None:
        """Count.

        Raises:
            KeyError: there is no such series.
        """
        self._values[series] += amount

    def describe(self) -> Iterator[Metric]:
        """Yield the name and type, for the registry."""
        yield CounterMetricFamily(*self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Yield all series."""
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        yield family


class Times(Collector):
    """A histogram.

    Args:
        name: With its unit.
        text: What is measured.
        labels: Their names.
        bounds: Upper ends of the buckets, rising.
        registry: Where it is collected.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._about = (name, text)
        self._labels = labels
        self._bounds = tuple(map(float, bounds))
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        registry.register(self)

    def declare(self, series: Iterable[Labels]) -> None:
        """Begin series without a value; there are no others."""
        for labels in series:
            self._buckets[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0

    def observe(self, series: Labels, value: float) -> None:
        """Take a value in.

        Raises:
            KeyError: there is no such series.
        """
        self._buckets[series][bisect_left(self._bounds, value)] += 1
        self._sums[series] += value

    def describe(self) -> Iterator[Metric]:
        """Yield the name and type, for the registry."""
        yield HistogramMetricFamily(*self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Yield all series."""
        family = HistogramMetricFamily(*self._about, labels=self._labels)
        bounds = [*map(str, self._bounds), "+Inf"]
        for labels, counts in list(self._buckets.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family
