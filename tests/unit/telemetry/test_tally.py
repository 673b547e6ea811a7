"""Counters, histograms and gauges of our own, compared with prometheus_client's."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llm_backend.telemetry.tally import About, Counts, Family, Gauges, Times

BOUNDS = (0.1, 1, 10)
SERIES = [("a", "x"), ("a", "y"), ("b", "x")]
NAMES = ["one", "two"]

THINGS = About("things_total", "counter", "What for", NAMES)
SECONDS = About("seconds", "histogram", "What for", NAMES)
LEVEL = About("level", "gauge", "What for", NAMES)


def read(text: str) -> set[tuple[str, str, frozenset[tuple[str, str]], str]]:
    """Return type, name, labels and value of each sample, less the time at which it began."""
    return {
        (family.type, sample.name, frozenset(sample.labels.items()), str(float(sample.value)))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def compare(ours: Family, theirs: CollectorRegistry) -> None:
    """See that both say the same, in the fast way to write it down and in the usual one."""
    expected = read(generate_latest(theirs).decode())
    registry = CollectorRegistry()
    registry.register(ours)
    assert read(ours.text()) == expected
    assert read(generate_latest(registry).decode()) == expected


@given(st.lists(st.tuples(st.sampled_from(SERIES), st.floats(0, 1e9))))
def test_a_scrape_sees_what_it_would_see_of_a_counter(
    events: list[tuple[tuple[str, str], float]],
) -> None:
    theirs = CollectorRegistry()
    counts = Counts(THINGS, CollectorRegistry())
    counts.declare(SERIES)
    counter = Counter("things", "What for", NAMES, registry=theirs)
    for series in SERIES:
        counter.labels(*series)
    for series, amount in events:
        counts.add(series, amount)
        counter.labels(*series).inc(amount)
    compare(counts, theirs)


@given(st.lists(st.tuples(st.sampled_from(SERIES), st.sampled_from([0, 0.1, 0.11, 1, 9, 10, 11]))))
def test_a_scrape_sees_what_it_would_see_of_a_histogram(
    events: list[tuple[tuple[str, str], float]],
) -> None:
    theirs = CollectorRegistry()
    times = Times(SECONDS, CollectorRegistry(), BOUNDS)
    times.declare(SERIES)
    histogram = Histogram("seconds", "What for", NAMES, buckets=BOUNDS, registry=theirs)
    for series in SERIES:
        histogram.labels(*series)
    for series, value in events:
        times.observe(series, value)
        histogram.labels(*series).observe(value)
    compare(times, theirs)


@given(st.dictionaries(st.sampled_from(SERIES), st.floats()))
def test_a_scrape_sees_what_it_would_see_of_a_gauge(values: dict[tuple[str, str], float]) -> None:
    theirs = CollectorRegistry()
    gauges = Gauges(LEVEL, CollectorRegistry())
    gauges.declare(SERIES)
    gauge = Gauge("level", "What for", NAMES, registry=theirs)
    for series in SERIES:
        gauge.labels(*series).set(values.get(series, 0))
    for series, value in list(values.items())[:1]:
        gauges.set(series, value)
    gauges.follow(lambda: dict(list(values.items())[1:]))
    compare(gauges, theirs)


def test_a_gauge_is_read_when_it_is_looked_at() -> None:
    gauges = Gauges(About("level", "gauge", "", []), CollectorRegistry())
    gauges.declare([()], nan)
    assert gauges.text().splitlines()[-1] == "level NaN"
    level = [1.0]
    gauges.follow(lambda: {(): level[0]})
    for value, text in ((2, "2.0"), (inf, "+Inf"), (-inf, "-Inf"), (True, "1.0")):
        level[0] = value
        assert gauges.text().splitlines()[-1] == f"level {text}"


def test_what_labels_hold_is_quoted() -> None:
    odd = 'a"b\\c\nd'
    counts = Counts(About("things_total", "counter", "One\nline", ["one"]), CollectorRegistry())
    counts.declare([(odd,)])
    assert r'things_total{one="a\"b\\c\nd"} 0.0' in counts.text()
    assert r"# HELP things_total One\nline" in counts.text()
    ((_, _, labels, _),) = read(counts.text())
    assert dict(labels) == {"one": odd}


def test_a_series_that_is_declared_twice_is_one() -> None:
    counts = Counts(About("things_total", "counter", "", ["one"]), CollectorRegistry())
    counts.declare([("a",), ("a",)])
    counts.add(("a",))
    counts.declare([("a",)])
    assert counts.text().count("\n") == 3
    assert 'things_total{one="a"} 1.0' in counts.text()


def test_there_are_no_other_series() -> None:
    registry = CollectorRegistry()
    counts = Counts(About("things_total", "counter", "", ["one"]), registry)
    times = Times(About("seconds", "histogram", "", ["one"]), registry, BOUNDS)
    gauges = Gauges(About("level", "gauge", "", ["one"]), registry)
    assert ("invented",) not in counts
    with pytest.raises(KeyError):
        counts.add(("invented",))
    with pytest.raises(KeyError):
        times.observe(("invented",), 1)
    with pytest.raises(KeyError):
        gauges.set(("invented",), 1)
    gauges.follow(lambda: {("invented",): 1})
    with pytest.raises(KeyError):
        gauges.text()


def test_two_of_a_name_are_refused() -> None:
    registry = CollectorRegistry()
    Counts(About("things_total", "counter", "", []), registry)
    with pytest.raises(ValueError, match="things"):
        Times(About("things_total", "histogram", "", []), registry, BOUNDS)
