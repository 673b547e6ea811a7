"""Where one model stands: its free seats, and how long it rests after failures."""

from __future__ import annotations

import pytest

from llm_backend.errors import DeviceBusy
from llm_backend.switching.entry import (
    FORGOTTEN,
    LATEST,
    LONGEST_BACKOFF_S,
    LONGEST_PAUSE_S,
    Entry,
)
from llm_backend.switching.states import State
from tests.unit.switching.playbook import CRASH, NOT_READY, model


@pytest.mark.parametrize(
    ("state", "free"),
    [(State.AWAKE, 7)] + [(state, 0) for state in State if state is not State.AWAKE],
)
def test_only_an_awake_model_has_free_seats(state: State, free: int) -> None:
    assert Entry(model("a", seats=10), state=state, leases=3).free == free


def test_each_failure_in_a_row_doubles_the_rest_after_a_free_retry() -> None:
    entry, rests = Entry(model("a")), []
    for _ in range(8):
        entry.remember_failure(CRASH, now=100.0)
        rests.append(entry.retry_at - 100.0)

    assert rests == [0, 2, 4, 8, 16, 32, 60, 60]


def test_a_device_that_is_busy_is_looked_at_again_within_seconds() -> None:
    entry, rests = Entry(model("a")), []
    for _ in range(5):
        entry.remember_failure(DeviceBusy("The memory is taken."), now=100.0)
        rests.append(entry.retry_at - 100.0)

    assert rests == [0, 2, 2, 2, 2]


def test_a_model_that_fails_for_months_still_rests_a_minute() -> None:
    entry = Entry(model("a"), failures=100_000)

    entry.remember_failure(CRASH, now=0.0)

    assert entry.retry_at == LONGEST_BACKOFF_S


def test_a_resting_model_says_why_and_for_how_long() -> None:
    entry = Entry(model("a"), state=State.FAILED, failures=2)
    entry.remember_failure(NOT_READY, now=100.0)

    early, late = entry.resting(101.0), entry.resting(103.0)

    assert early is not None
    assert late is not None
    assert (early.text, early.retry_after_s) == (NOT_READY.text, 3.0)
    assert (late.text, late.retry_after_s) == (NOT_READY.text, 1.0)
    assert entry.error is NOT_READY
    assert NOT_READY.retry_after_s is None


def test_a_rested_model_may_be_tried() -> None:
    entry = Entry(model("a"), state=State.FAILED, failures=1)
    entry.remember_failure(NOT_READY, now=100.0)

    assert entry.resting(101.9) is not None
    assert entry.resting(102.0) is None


def test_only_a_failed_model_rests() -> None:
    entry = Entry(model("a"), failures=5)
    entry.remember_failure(NOT_READY, now=100.0)
    entry.state = State.STARTING  # an operator's switch does not wait

    assert entry.resting(100.0) is None


def test_the_latest_pauses_count_most() -> None:
    entry = Entry(model("a"), last_used=100.0)
    entry.expect(110.0)
    assert entry.pause_s == 5.0

    entry.last_used = 120.0
    entry.expect(121.0)
    assert entry.pause_s == 3.0


def test_a_night_is_no_longer_pause_than_half_a_minute() -> None:
    entry = Entry(model("a"), last_used=100.0)

    entry.expect(40_000.0)

    assert entry.pause_s == LONGEST_PAUSE_S * LATEST


def test_there_is_no_pause_between_requests_at_once() -> None:
    entry = Entry(model("a"), last_used=100.0, leases=1)

    entry.expect(1_000.0)

    assert entry.pause_s == 0.0


def test_a_turn_lasts_from_ready_until_it_is_asked_to_leave() -> None:
    entry = Entry(model("a"))
    for state, at in ((State.STARTING, 1.0), (State.AWAKE, 2.0), (State.DRAINING, 3.0)):
        entry.enter(state, at)
    assert (entry.turn_since, entry.turn_over) == (2.0, 3.0)

    entry.enter(State.AWAKE, 4.0)  # the drain was called off: it is the same turn
    entry.enter(State.STOPPING, 5.0)
    assert (entry.turn_since, entry.turn_over) == (2.0, 5.0)


def test_a_lease_is_out_for_as_long_as_leases_were_in_the_mean() -> None:
    entry = Entry(model("a"))
    assert entry.lease_s(50.0) == 0.0

    entry.lend(100.0)
    entry.lend(102.0)
    assert entry.lease_s(104.0) == 4.0 + 2.0, "none came back: all that is known counts for one"
    entry.take_back(106.0)
    entry.take_back(108.0)

    assert entry.lease_s(200.0) == (6.0 + 6.0) / 2


def test_what_leases_took_long_ago_is_forgotten() -> None:
    entry = Entry(model("a"))

    for seconds in [100.0] * FORGOTTEN + [2.0] * 10 * FORGOTTEN:
        begin = entry.last_used
        entry.lend(begin)
        entry.take_back(begin + seconds)

    assert 2.0 <= entry.lease_s(entry.last_used) < 2.1
