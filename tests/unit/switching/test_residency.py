"""Which rung a model takes."""

from __future__ import annotations

import pytest

from llm_backend.switching.estimates import GUESS_S
from llm_backend.switching.residency import choose, trip_s

STOPPING = {"stop": [2.0], "start": [30.0]}
LIGHT = {"sleep_1": [1.0], "wake_1": [1.5]}
DEEP = {"sleep_2": [0.2], "wake_2": [9.0]}


def test_without_a_rung_it_is_stopped() -> None:
    assert choose([], LIGHT, measured=True) is None
    assert choose([], {}, measured=False) is None


@pytest.mark.parametrize("offered", [[2, 1], [1], [2]])
def test_where_no_times_decide_the_lightest_has_it(offered: list[int]) -> None:
    assert choose(offered, {**STOPPING, "sleep_1": [99.0]}, measured=False) == min(offered)


def test_each_is_tried_once_the_lighter_first() -> None:
    assert choose([1, 2], STOPPING, measured=True) == 1
    assert choose([1, 2], STOPPING | LIGHT, measured=True) == 2


def test_one_that_was_only_half_measured_is_tried_again() -> None:
    assert choose([1, 2], STOPPING | DEEP | {"sleep_1": [1.0]}, measured=True) == 1


def test_the_quickest_there_and_back_has_it() -> None:
    assert choose([1, 2], STOPPING | LIGHT | DEEP, measured=True) == 1
    slow = {"sleep_1": [8.0], "wake_1": [4.0]}
    assert choose([1, 2], STOPPING | slow | DEEP, measured=True) == 2


def test_where_stopping_is_quicker_it_is_stopped() -> None:
    quick = {"stop": [0.1], "start": [2.0]}
    assert choose([1, 2], quick | LIGHT | DEEP, measured=True) is None


def test_where_stopping_was_never_measured_it_sleeps() -> None:
    assert choose([1, 2], LIGHT | DEEP, measured=True) == 1


def test_a_trip_is_there_and_back() -> None:
    times = STOPPING | LIGHT | DEEP
    assert [trip_s(times, rung) for rung in (None, 1, 2)] == [32.0, 2.5, 9.2]


def test_a_trip_that_was_never_made_is_guessed() -> None:
    assert trip_s({}, None) == trip_s({}, 1) == GUESS_S + 1.0
