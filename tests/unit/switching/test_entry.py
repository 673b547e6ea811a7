"""Where one model stands: its free seats, and how long it rests after failures."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.errors import DeviceBusy
from llm_backend.switching.entry import (
    FORGOTTEN,
    LATEST,
    LONGEST_BACKOFF_S,
    LONGEST_PAUSE_S,
    Entry,
)
from llm_backend.switching.events import Needs
from llm_backend.switching.residency import LOST_S
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


class TestRungs:
    """How deep a model sleeps, or will."""

    def sleeper(self, **fields: Any) -> Entry:
        rungs = {1: {"gpu0": 400}, 2: {"gpu0": 600}}
        return Entry(Needs("a", "gpu0", 1, {"gpu0": 9000}, rungs=rungs), **fields)

    def test_awake_it_reserves_its_own_and_excludes_its_group(self) -> None:
        assert self.sleeper(state=State.AWAKE, rung=1).reserved.mib == {"gpu0": 9000}

    def test_asleep_it_reserves_what_it_keeps_and_excludes_nobody(self) -> None:
        asleep = self.sleeper(state=State.ASLEEP, rung=2).reserved
        assert asleep.mib == {"gpu0": 600}
        assert asleep.group not in {"gpu0", "b, asleep"}

    def test_a_rung_that_failed_is_left_alone_for_a_while(self) -> None:
        entry = self.sleeper(rung=1)
        entry.lose_rung(100.0)
        assert list(entry.rungs_left(100.0)) == [2]
        assert list(entry.rungs_left(100.0 + LOST_S)) == [1, 2]

    def test_who_lost_none_loses_none(self) -> None:
        entry = self.sleeper()
        entry.lose_rung(100.0)
        assert list(entry.rungs_left(100.0)) == [1, 2]

    def test_the_next_rung_is_the_one_it_is_on_or_will_take(self) -> None:
        assert self.sleeper(state=State.ASLEEP, rung=2).next_rung({}, 0.0) == 2
        assert self.sleeper(state=State.AWAKE).next_rung({}, 0.0) == 1
        assert Entry(Needs("b", "gpu0", 1)).next_rung({}, 0.0) is None


def test_what_held_a_request_up() -> None:
    entry = Entry(model("a"))
    entry.enter(State.STARTING, 10.0)
    entry.enter(State.AWAKE, 20.0)

    assert entry.held_up(since=5.0) == "switch"
    assert entry.held_up(since=21.0) == "engine_busy"


@pytest.mark.parametrize("end", [State.FAILED, State.STOPPING])
def test_a_device_lease_is_to_blame_for_one_turn(end: State) -> None:
    entry = Entry(model("a"), was_lent=True)
    entry.enter(State.STARTING, 10.0)
    if end is State.STOPPING:
        entry.enter(State.AWAKE, 20.0)
        assert entry.held_up(since=5.0) == "lease"
        assert entry.held_up(since=21.0) == "engine_busy"
    entry.enter(end, 30.0)
    entry.enter(State.STARTING, 40.0)
    entry.enter(State.AWAKE, 50.0)

    assert entry.held_up(since=35.0) == "switch"


def test_where_the_weights_are() -> None:
    where = {state: Entry(model("a"), state=state, rung=2).residency for state in State}
    awake = {State.AWAKE, State.DRAINING}

    assert {state for state, residency in where.items() if residency == "awake"} == awake
    assert where[State.ASLEEP] == "asleep-2"
    assert where[State.STARTING] == where[State.FAILED] == "stopped"
