from __future__ import annotations

import pytest

from bench.scrape import Outcome, Size, faults, parsed, size_of


def outcome(wall_ms: float = 5.0, later: int = 100) -> Outcome:
    return Outcome(3, 5, wall_ms, 9.0, 2.0, Size(100, 9_000), Size(later, 9_100))


def test_the_size_is_that_of_the_samples() -> None:
    text = b'# HELP a A\n# TYPE a counter\na_total{b="c"} 1.0\na_total{b="d"} 2.0\n'
    assert size_of(text) == Size(2, len(text))


@pytest.mark.parametrize(
    ("wall_ms", "later", "told"),
    [
        (5.0, 100, []),
        (50.0, 100, ["a scrape took 50.0 ms, 50 are wanted"]),
        (5.0, 101, ["3 models, 5 keys: 100 series became 101"]),
    ],
)
def test_what_is_not_as_it_is_to_be(wall_ms: float, later: int, told: list[str]) -> None:
    assert faults([outcome(wall_ms, later)]) == told


def test_only_the_first_set_up_has_a_limit() -> None:
    assert faults([outcome(), outcome(wall_ms=80.0)]) == []


def test_20_000_names_of_each_kind_are_invented() -> None:
    assert (parsed([]).names, parsed(["--names", "5"]).names) == (20_000, 5)
