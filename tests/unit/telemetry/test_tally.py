"""Counters and histograms of our own, compared with prometheus_client's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from llm_backend.telemetry.tally import Counts, Times

BOUNDS = (0.1, 1, 10)
SERIES = [("a", "x"), ("a", "y"), ("b", "x")]
NAMES = ["one", "two"]


def lines(registry: CollectorRegistry) -> set[str]:
    """Return what a scrape gets, less the time at which a series began."""
    text = generate_latest(registry).decode()
    return {line for line in text.splitlines() if "_created" not in line}


@given(st.lists(st.tuples(st.sampled_from(SERIES), st.floats(0, 1e9))))
def test_a_scrape_sees_what_it_would_see_of_a_counter(
    events: list[tuple[tuple[str, str], float]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("things", "What for", NAMES, ours)
    counts.declare(SERIES)
    counter = Counter("things", "What for", NAMES, registry=theirs)
    for series in SERIES:
        counter.labels(*series)
    for series, amount in events:
        counts.add(series, amount)
        counter.labels(*series).inc(amount)
    assert lines(ours) == lines(theirs)


@given(st.lists(st.tuples(st.sampled_from(SERIES), st.sampled_from([0, 0.1, 0.11, 1, 9, 10, 11]))))
def test_a_scrape_sees_what_it_would_see_of_a_histogram(
    events: list[tuple[tuple[str, str], float]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    times = Times("seconds", "What for", NAMES, BOUNDS, ours)
    times.declare(SERIES)
    histogram = Histogram("seconds", "What for", NAMES, buckets=BOUNDS, registry=theirs)
    for series in SERIES:
        histogram.labels(*series)
    for series, value in events:
        times.observe(series, value)
        histogram.labels(*series).observe(value)
    assert lines(ours) == lines(theirs)


def test_there_are_no_other_series() -> None:
    registry = CollectorRegistry()
    counts = Counts("things", "", ["one"], registry)
    times = Times("seconds", "", ["one"], BOUNDS, registry)
    with pytest.raises(KeyError):
        counts.add(("invented",))
    with pytest.raises(KeyError):
        times.observe(("invented",), 1)


def test_two_of_a_name_are_refused() -> None:
    registry = CollectorRegistry()
    Counts("things", "", [], registry)
    with pytest.raises(ValueError, match="things"):
        Times("things_total", "", [], BOUNDS, registry)
