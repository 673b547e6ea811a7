from __future__ import annotations

from bench.chart import costs, label


def test_gateways_are_ordered_by_their_median_cost() -> None:
    samples = [
        {"scenario": "request-64", "target": target, "cpu_us": cpu}
        for target, cpu in [("b", 9), ("b", 5), ("b", 7), ("a", 8), ("direct", None)]
    ]
    samples.append({"scenario": "stream-4", "target": "c", "cpu_us": 1})

    assert list(costs({"samples": samples}, "request-64").items()) == [("b", 7), ("a", 8)]


def test_a_bar_that_is_cut_says_so() -> None:
    assert label(12.34, widest=20) == "12.3"
    assert label(1234, widest=20) == "1,234 (cut)"
