"""What a wait will cost."""

from __future__ import annotations

import pytest

from llm_backend.switching.estimates import (
    CAREFUL,
    GUESS_S,
    LONG,
    MARGIN,
    RECENT,
    USUAL,
    expected_s,
)


def test_a_stage_is_expected_to_take_what_it_usually_took() -> None:
    assert expected_s({"start": [4.0, 90.0, 5.0]}, "start") == 5.0


def test_old_measurements_do_not_count() -> None:
    assert expected_s({"start": [100.0] * 50 + [5.0] * RECENT}, "start") == 5.0


def test_what_was_never_measured_is_not_known() -> None:
    assert expected_s({}, "start") is None
    assert expected_s({"start": []}, "start") is None


@pytest.mark.parametrize(("elapsed_s", "left_s"), [(0, 20.0), (15, 5.0), (19, 2.0), (500, 2.0)])
def test_what_is_left_shrinks_and_is_never_nothing(elapsed_s: float, left_s: float) -> None:
    assert USUAL.left_s(20.0, elapsed_s) == left_s


def test_whoever_is_careful_takes_everything_for_longer() -> None:
    durations = {"start": [4.0, 90.0, 5.0]}

    assert (USUAL.stage_s(durations, "start"), USUAL.lease_s(2.0)) == (5.0, 2.0)
    assert CAREFUL.stage_s(durations, "start") == MARGIN * 90.0
    assert CAREFUL.lease_s(2.0) == LONG * 2.0


@pytest.mark.parametrize(
    ("stage", "seconds"), [("start", GUESS_S), ("wake_1", GUESS_S), ("stop", 1.0)]
)
def test_a_stage_that_was_never_measured_is_guessed(stage: str, seconds: float) -> None:
    assert USUAL.stage_s({}, stage) == seconds
    assert CAREFUL.stage_s({}, stage) == 4 * seconds
