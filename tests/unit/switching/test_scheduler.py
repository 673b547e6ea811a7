"""The policy on one device, rule by rule; `a`, `b` and `c` exclude each other.

What operators and several devices add is in `tests/model`.
"""

from __future__ import annotations

import pytest

from llm_backend.errors import EngineGone, Overloaded
from llm_backend.switching import events as ev
from llm_backend.switching.estimates import MARGIN
from llm_backend.switching.states import State
from tests.unit.switching.playbook import CRASH, HANG, NOT_READY, Playbook, like, model

A, B, C = model("a"), model("b"), model("c")
NARROW = model("a", seats=1)


# Serving


def test_an_awake_model_grants_at_once() -> None:
    play = Playbook(A).awake("a")

    assert play(ev.Arrived(1, "a")) == [ev.Grant(1, "a")]


def test_the_first_request_loads_and_whoever_comes_meanwhile_joins() -> None:
    play = Playbook(A, B)

    assert play(ev.Arrived(1, "a")) == [ev.Want("gpu", "a"), ev.Start("a")]
    assert play(ev.Arrived(2, "a")) == []
    assert play(ev.Ready("a")) == [ev.Grant(1, "a"), ev.Grant(2, "a")]
    assert play.moves == [("a", State.STARTING), ("a", State.AWAKE)]


def test_no_more_leases_than_seats() -> None:
    play = Playbook(NARROW).awake("a").busy("a", 1)

    assert play(ev.Arrived(2, "a")) == []
    assert play(ev.Arrived(3, "a")) == []
    assert play(ev.Finished("a")) == [ev.Grant(2, "a")]
    assert play(ev.Finished("a")) == [ev.Grant(3, "a")]


def test_whoever_leaves_the_line_leaves_no_trace() -> None:
    play = Playbook(NARROW).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))
    play(ev.Arrived(3, "a"))

    assert play(ev.Left(2)) == []
    assert play.scheduler.queue_length == 1
    assert play(ev.Finished("a")) == [ev.Grant(3, "a")]


def test_leaving_after_the_answer_means_nothing() -> None:
    play = Playbook(A).awake("a").busy("a", 1)

    assert play(ev.Left(1)) == []
    assert play(ev.Left(99)) == []


# The line


def test_models_take_turns_in_the_order_of_the_requests() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)

    assert play(ev.Arrived(2, "b")) == [ev.Want("gpu", "b"), ev.SetTimer(400.0)]
    assert play(ev.Arrived(3, "a")) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == [ev.Grant(2, "b"), ev.Want("gpu", "a"), ev.SetTimer(400.0)]
    assert play(ev.Finished("b")) == [ev.Stop("b")]
    assert play(ev.Stopped("b")) == [ev.Start("a")]
    assert play(ev.Ready("a")) == [ev.Grant(3, "a")]


def test_a_hot_model_starves_nobody() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    for ticket in range(3, 50):
        assert play(ev.Arrived(ticket, "a")) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]


def test_the_line_of_a_model_does_not_grow_in_front_of_others() -> None:
    play = Playbook(NARROW, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))
    play(ev.Arrived(3, "b"))
    play(ev.Arrived(4, "a"))

    assert play(ev.Finished("a")) == [
        ev.Grant(2, "a"),
        ev.Want("gpu", "b"),
        ev.SetTimer(400.0),
    ]
    assert play(ev.Finished("a")) == [ev.Stop("a")]


def test_a_third_model_waits_for_the_second() -> None:
    play = Playbook(A, B, C).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    assert play(ev.Arrived(3, "c")) == []
    play(ev.Finished("a"))
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == [ev.Grant(2, "b"), ev.Want("gpu", "c"), ev.SetTimer(400.0)]


def test_a_load_is_not_thrown_away_unserved() -> None:
    play = Playbook(A, B)
    play(ev.Arrived(1, "a"))
    play(ev.Arrived(2, "b"))

    assert play(ev.Arrived(3, "a")) == []
    assert play(ev.Ready("a")) == [
        ev.Grant(1, "a"),
        ev.Grant(3, "a"),
        ev.Want("gpu", "b"),
        ev.SetTimer(400.0),
    ]


# Draining


def test_an_idle_model_leaves_at_once() -> None:
    play = Playbook(A, B).awake("a")

    assert play(ev.Arrived(1, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]


def test_a_drain_is_called_off_when_nobody_waits_for_it_any_more() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))
    play(ev.Arrived(3, "a"))

    assert play(ev.Left(2)) == [ev.Want("gpu", "a"), ev.Grant(3, "a")]
    assert play.states() == {"a": State.AWAKE, "b": State.STOPPED}


def test_a_drain_that_is_called_off_is_remembered_as_wanted_even_if_nobody_waits() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    assert play(ev.Left(2)) == [ev.Want("gpu", "a")]


def test_past_its_deadline_a_drain_cuts_what_still_runs() -> None:
    play = Playbook(A, B, drain_s=30.0).awake("a").busy("a", 1)
    assert play(ev.Arrived(2, "b")) == [ev.Want("gpu", "b"), ev.SetTimer(130.0)]

    play.later(30.0)

    assert play(ev.Timer()) == [ev.Cut("a", like(EngineGone, "30 s")), ev.Stop("a")]
    assert play(ev.Finished("a")) == []
    assert play(ev.Stopped("a")) == [ev.Start("b")]


def test_a_timer_that_comes_early_is_set_again() -> None:
    play = Playbook(A, B, drain_s=30.0).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    play.later(29.999)

    assert play(ev.Timer()) == [ev.SetTimer(130.0)]


def test_the_timer_of_a_drain_that_was_called_off_means_nothing() -> None:
    play = Playbook(A, B, drain_s=30.0).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))
    play(ev.Left(2))

    play.later(30.0)

    assert play(ev.Timer()) == []


# The queue


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    times = {"a": {"stop": [2.0]}, "b": {"start": [7.0]}}
    play = Playbook(A, B, queue_limit=1, durations=times).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    [refusal] = play(ev.Arrived(3, "b"))

    assert refusal == ev.Refuse(3, like(Overloaded, "1 requests wait already"))
    assert refusal.error.retry_after_s == pytest.approx(MARGIN * (2.0 + 7.0) + 1.0)


def test_a_full_queue_does_not_keep_an_awake_model_from_granting() -> None:
    small = model("small", group="small")
    play = Playbook(A, B, small, queue_limit=1).awake("a", "small").busy("a", 1)
    play(ev.Arrived(2, "b"))

    assert play(ev.Arrived(3, "small")) == [ev.Grant(3, "small")]


def test_a_place_in_the_queue_is_free_again_when_its_holder_leaves() -> None:
    play = Playbook(A, queue_limit=1)
    play(ev.Arrived(1, "a"))
    play(ev.Left(1))

    assert play(ev.Arrived(2, "a")) == []
    assert play(ev.Ready("a")) == [ev.Grant(2, "a")]


# Engines that fail


def test_a_failed_start_refuses_whoever_waited_and_the_next_request_tries_again() -> None:
    play = Playbook(A)
    play(ev.Arrived(1, "a"))
    play(ev.Arrived(2, "a"))

    assert play(ev.Broke("a", NOT_READY)) == [ev.Refuse(1, NOT_READY), ev.Refuse(2, NOT_READY)]
    assert play.states() == {"a": State.FAILED}
    assert play(ev.Arrived(3, "a")) == [ev.Start("a")]
    assert play(ev.Ready("a")) == [ev.Grant(3, "a")]


def test_a_model_that_keeps_failing_rests_longer_and_longer() -> None:
    play = Playbook(A)
    for rest in (0.0, 2.0, 4.0):
        assert ev.Start("a") in play(ev.Arrived(1, "a"))
        play(ev.Broke("a", NOT_READY))
        play.later(rest)

    play.later(-1.0)
    [refusal] = play(ev.Arrived(2, "a"))

    assert refusal == ev.Refuse(2, like(type(NOT_READY), NOT_READY.text))
    assert refusal.error.retry_after_s == 1.0


def test_while_a_failed_model_rests_nobody_else_is_disturbed() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play.scheduler.entries["b"].state = State.FAILED
    for _ in range(2):
        play.scheduler.entries["b"].remember_failure(NOT_READY, play.now)

    assert play(ev.Arrived(2, "b")) == [ev.Refuse(2, like(type(NOT_READY)))]
    assert play.states()["a"] is State.AWAKE


def test_a_request_that_is_served_ends_the_row_of_failures() -> None:
    play = Playbook(A)
    for _ in range(3):
        play(ev.Arrived(1, "a"))
        play(ev.Broke("a", NOT_READY))
        play.later(60.0)
    play(ev.Arrived(2, "a"))
    play(ev.Ready("a"))
    play(ev.Finished("a"))

    play(ev.Broke("a", CRASH))

    assert play(ev.Arrived(3, "a")) == [ev.Start("a")]


def test_after_a_crash_whoever_waits_is_served_by_a_new_engine() -> None:
    play = Playbook(NARROW).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))

    assert play(ev.Broke("a", CRASH)) == [ev.Cut("a", CRASH), ev.Start("a")]
    assert play(ev.Finished("a")) == []
    assert play(ev.Ready("a")) == [ev.Grant(2, "a")]


def test_a_crash_hands_the_device_to_the_first_in_line() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))
    play(ev.Arrived(3, "a"))

    assert play(ev.Broke("a", CRASH)) == [ev.Cut("a", CRASH), ev.Start("b")]


def test_a_hung_engine_is_ended_before_the_next_one_starts() -> None:
    play = Playbook(NARROW).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))

    assert play(ev.Hung("a", HANG)) == [ev.Cut("a", HANG), ev.Stop("a")]
    assert play(ev.Finished("a")) == []
    assert play(ev.Stopped("a")) == [ev.Start("a")]
    assert ("a", State.FAILED) in play.moves
    assert play(ev.Ready("a")) == [ev.Grant(2, "a")]


def test_what_crosses_a_stop_is_passed_over() -> None:
    for late in (ev.Ready("a"), ev.Hung("a", HANG), ev.Broke("a", CRASH)):
        play = Playbook(A, B).awake("a")
        play(ev.Arrived(1, "b"))
        assert play.states()["a"] is State.STOPPING

        assert play(late) == []
        assert play(ev.Stopped("a")) == [ev.Start("b")]
        assert play.states()["a"] is State.STOPPED


# Loads that nobody wants any more


def test_a_load_that_nobody_wants_any_more_is_finished() -> None:
    play = Playbook(A, B)
    play(ev.Arrived(1, "a"))

    assert play(ev.Left(1)) == []
    assert play(ev.Arrived(2, "b")) == []
    assert play(ev.Ready("a")) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_or_it_is_cancelled() -> None:
    play = Playbook(A, B, unwanted_load="cancel")
    play(ev.Arrived(1, "a"))
    play(ev.Arrived(2, "a"))

    assert play(ev.Left(1)) == []
    assert play(ev.Left(2)) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == []


def test_a_load_that_somebody_still_wants_is_not_cancelled() -> None:
    play = Playbook(A, B, unwanted_load="cancel")
    play(ev.Arrived(1, "a"))
    play(ev.Arrived(2, "b"))
    play(ev.Arrived(3, "a"))

    assert play(ev.Left(1)) == []
    assert play(ev.Left(3)) == [ev.Want("gpu", "b"), ev.Stop("a")]
