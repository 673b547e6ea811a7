"""The figures are what their names say."""

from __future__ import annotations

import pytest

from llm_backend.replay.result import Outcome, Waits, count_ends, estimate_error, percentile


def waited(seconds: float, expected: float | None = None, end: str = "served") -> Outcome:
    return Outcome("a", "", False, 0.0, expected_s=expected, waited_s=seconds, end=end)  # type: ignore[arg-type]  # a literal


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_there(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_nobody_waited() -> None:
    assert Waits.of([]) == Waits(0, 0.0, 0.0, 0.0)


def test_every_way_to_end_is_counted() -> None:
    ends = count_ends([waited(1), waited(1), waited(1, end="left"), Outcome("a", "", False, 0.0)])

    assert ends == {"served": 2, "refused": 0, "timed_out": 0, "left": 1, "cut": 0}


def test_the_error_of_estimates_is_that_of_real_waits() -> None:
    told = [waited(10, 12), waited(10, 5), waited(10, 10), waited(0.5, 30), waited(9, 1, "left")]

    assert estimate_error(told) == pytest.approx(0.2)
    assert estimate_error([waited(10), waited(0.5, 30)]) is None
