"""The policy `fair`, rule by rule; `a`, `b` and `c` exclude each other.

A switch takes 10 s, so there and back 20 s: a quantum is 10 s, a pause of 1.2 s is lingered
through, and an idle device is left to `batch` after 60 s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llm_backend.errors import DeviceBusy, ModelNotActive, Overloaded
from llm_backend.switching import events as ev
from llm_backend.switching.entry import BUSY_BACKOFF_S
from llm_backend.switching.estimates import MARGIN
from llm_backend.switching.states import State
from tests.unit.switching.playbook import NOT_READY, Playbook, like, model

A, B, C = model("a"), model("b"), model("c")
NARROW = model("a", seats=1)
TIMES = {name: {"start": [9.0], "stop": [1.0]} for name in "abc"}


def fair(*models: ev.Needs, **rules: Any) -> Playbook:
    return Playbook(*models, durations=TIMES, policy="fair", **rules)


def refusals(effects: list[ev.Effect]) -> list[ev.Effect]:
    return [effect for effect in effects if isinstance(effect, ev.Refuse)]


# A turn


def test_in_its_turn_a_model_serves_whoever_asks_for_it_although_others_wait() -> None:
    play = fair(A, B).awake("a").busy("a", 1)

    assert play(ev.Arrived(2, "b")) == [ev.SetTimer(110.0)]
    assert play(ev.Arrived(3, "a")) == [ev.Grant(3, "a")]


def test_when_its_turn_is_over_it_drains() -> None:
    play = fair(A, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))
    play.later(10.0)

    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.SetTimer(410.0)]
    assert play(ev.Arrived(3, "a")) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == [ev.Grant(2, "b"), ev.SetTimer(120.0)]


def test_a_model_that_was_awake_for_long_has_had_its_turn() -> None:
    play = fair(A, B).awake("a").busy("a", 1)
    play.later(10.0)

    assert play(ev.Arrived(2, "b")) == [ev.Want("gpu", "b"), ev.SetTimer(410.0)]


def test_idle_it_lingers_for_a_request_that_usually_comes_at_once() -> None:
    play = fair(A, B).awake("a")
    play.scheduler.entries["a"].last_used = 100.0
    play.busy("a", 1)
    play(ev.Arrived(2, "b"))
    play.later(1.0)

    assert play(ev.Finished("a")) == [ev.SetTimer(102.2)]
    play.later(1.1)
    assert play(ev.Arrived(3, "a")) == [ev.Grant(3, "a")]


def test_and_no_longer_than_for_a_moment() -> None:
    play = fair(A, B).awake("a")
    play.scheduler.entries["a"].last_used = 100.0
    play.busy("a", 1)
    play(ev.Arrived(2, "b"))
    play(ev.Finished("a"))
    play.later(1.2)

    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_it_lingers_for_less_where_several_models_wait() -> None:
    play = fair(A, B, C).awake("a")
    play.scheduler.entries["a"].last_used = 100.0
    play.busy("a", 1)
    play(ev.Arrived(2, "b"))
    play(ev.Arrived(3, "c"))

    assert ev.SetTimer(100.6) in play(ev.Finished("a"))


def test_it_lingers_for_a_second_even_if_switches_are_fast() -> None:
    times = {name: {"start": [2.5], "stop": [0.1]} for name in "ab"}
    play = Playbook(A, B, durations=times, policy="fair").awake("a")
    play.scheduler.entries["a"].last_used = 100.0
    play.busy("a", 1)
    play(ev.Arrived(2, "b"))

    assert play(ev.Finished("a")) == [ev.SetTimer(101.0)]


def test_it_does_not_linger_where_the_pause_of_one_keeps_many_waiting() -> None:
    play = fair(A, B).awake("a")
    play.scheduler.entries["a"].last_used = 99.0
    play.busy("a", 1)  # after a pause of 1 s, and of none before
    for ticket in range(2, 8):
        play(ev.Arrived(ticket, "b"))

    assert play(ev.Finished("a")) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_it_does_not_linger_for_a_request_that_usually_comes_late() -> None:
    play = fair(A, B).awake("a").busy("a", 1)  # after a pause of 100 s
    play(ev.Arrived(2, "b"))

    assert play(ev.Finished("a")) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_after_its_turn_it_serves_those_who_came_before_the_others() -> None:
    play = fair(NARROW, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))
    play.later(10.0)

    assert play(ev.Arrived(3, "b")) == [ev.SetTimer(170.0)]
    assert play(ev.Finished("a")) == [ev.Grant(2, "a"), ev.Want("gpu", "b"), ev.SetTimer(410.0)]


def test_but_nobody_waits_for_those_longer_than_max_wait() -> None:
    play = fair(NARROW, B, max_wait_s=30.0).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a"))
    play.later(10.0)
    play(ev.Arrived(3, "b"))
    play.later(30.0)

    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.SetTimer(440.0)]
    play(ev.Finished("a"))
    assert play(ev.Stopped("a")) == [ev.Start("b")]


def test_a_turn_is_shorter_where_more_wait_than_use_it() -> None:
    play = fair(A, B).awake("a").busy("a", 1, 2)

    assert play(ev.Arrived(3, "b")) == [ev.SetTimer(110.0)]
    assert play(ev.Arrived(4, "b")) == []
    for ticket in range(5, 9):
        play(ev.Arrived(ticket, "b"))
    play.later(10.0 / 3)
    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.SetTimer(pytest.approx(400.0 + 10.0 / 3))]


def test_turns_of_several_models_share_what_each_of_them_waits_at_most() -> None:
    play = fair(A, B, C, max_wait_s=12.0).awake("a").busy("a", 1, 2)

    assert play(ev.Arrived(2, "b")) == [ev.SetTimer(110.0)]
    assert play(ev.Arrived(3, "c")) == [ev.SetTimer(106.0)]


def test_who_had_a_turn_stands_at_the_end_of_the_line() -> None:
    play = fair(NARROW, B, C, max_wait_s=30.0).awake("a").busy("a", 1)
    for ticket, name in ((2, "a"), (3, "b"), (4, "c")):
        play(ev.Arrived(ticket, name))
    play.later(30.0)
    play(ev.Timer())
    play(ev.Finished("a"))
    play(ev.Stopped("a"))

    assert play(ev.Ready("b")) == [ev.Grant(3, "b"), ev.Want("gpu", "c"), ev.SetTimer(430.0)]


def test_a_load_that_nobody_wants_any_more_keeps_nobody_waiting() -> None:
    play = fair(A, B)
    play(ev.Arrived(1, "a"))
    play(ev.Left(1))

    assert play(ev.Arrived(2, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]


# Keys


def test_keys_take_turns() -> None:
    play = fair(NARROW).awake("a").busy("a", 1)
    for ticket in (2, 3, 4):
        play(ev.Arrived(ticket, "a", "many"))
    play(ev.Arrived(5, "a", "few"))

    order = [play(ev.Finished("a")) for _ in range(4)]

    assert order == [[ev.Grant(ticket, "a")] for ticket in (2, 5, 3, 4)]


# Operators


def test_the_model_of_an_operator_is_kept_for_a_quantum_even_if_idle() -> None:
    play = fair(A, B)
    play(ev.SwitchAsked(1, "a"))
    play(ev.Ready("a"))

    assert play(ev.Arrived(2, "b")) == [ev.SetTimer(110.0)]
    play.later(10.0)
    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_an_operator_need_not_wait_for_the_end_of_a_turn() -> None:
    play = fair(A, B).awake("a").busy("a", 1)

    assert play(ev.SwitchAsked(2, "b")) == [ev.Want("gpu", "b"), ev.SetTimer(400.0)]


# The class batch


def test_a_batch_request_is_served_by_an_awake_model() -> None:
    play = fair(A).awake("a")

    assert play(ev.Arrived(1, "a", batch=True)) == [ev.Grant(1, "a")]


def test_but_not_while_somebody_wants_the_device() -> None:
    play = fair(A, B, batch_max_wait_s=1000.0).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    assert play(ev.Arrived(3, "a", batch=True)) == []
    assert play(ev.Arrived(4, "a")) == [ev.Grant(4, "a")]
    assert play(ev.Left(2)) == [ev.Grant(3, "a")]


def test_nor_does_it_lose_its_place_to_those_who_came_later_for_another_model() -> None:
    play = fair(NARROW, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a", batch=True))
    play.later(1.0)
    play(ev.Arrived(3, "b"))

    assert play(ev.Finished("a")) == [ev.Grant(2, "a")]


def test_an_interactive_request_goes_before_it() -> None:
    play = fair(NARROW).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a", batch=True))
    play(ev.Arrived(3, "a"))

    assert play(ev.Finished("a")) == [ev.Grant(3, "a")]
    assert play(ev.Finished("a")) == [ev.Grant(2, "a")]


def test_a_batch_request_starts_its_model_where_nothing_runs() -> None:
    assert fair(A)(ev.Arrived(1, "a", batch=True))[-2:] == [ev.Start("a"), ev.SetTimer(3700.0)]


def test_or_when_the_device_has_been_idle() -> None:
    play = fair(A, B).awake("a")

    assert play(ev.Arrived(1, "b", batch=True)) == [ev.SetTimer(160.0)]
    play.later(60.0)
    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.Stop("a"), ev.SetTimer(3700.0)]


def test_a_load_for_a_batch_request_gives_way() -> None:
    play = fair(A, B)
    play(ev.Arrived(1, "a", batch=True))

    assert play(ev.Arrived(2, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_a_batch_request_that_waited_too_long_is_like_any_other() -> None:
    play = fair(A, B, batch_max_wait_s=50.0).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b", batch=True))
    play.later(50.0)

    assert play(ev.Timer()) == [ev.Want("gpu", "b"), ev.SetTimer(450.0)]


# Requests that may not switch


def test_who_may_not_switch_is_refused_when_the_model_leaves() -> None:
    play = fair(NARROW, B).awake("a").busy("a", 1)
    play(ev.Arrived(2, "a", may_switch=False))
    play.later(10.0)
    play(ev.Arrived(3, "b"))
    play.later(60.0)

    refused = ev.Refuse(2, like(ModelNotActive, "not awake any more"))
    assert play(ev.Timer()) == [ev.Want("gpu", "b"), refused, ev.SetTimer(470.0)]


def test_or_at_once_when_it_has_left() -> None:
    assert fair(A)(ev.Arrived(1, "a", may_switch=False)) == [ev.Refuse(1, like(ModelNotActive))]


# The queue


def test_a_full_queue_tells_of_the_turns_before_the_next_place() -> None:
    play = fair(A, B, queue_limit=1).awake("a").busy("a", 1)
    play(ev.Arrived(2, "b"))

    [refusal] = play(ev.Arrived(3, "b"))

    assert refusal == ev.Refuse(3, like(Overloaded))
    assert refusal.error.retry_after_s == 10.0 + MARGIN * 10.0 + 1.0


def test_no_key_fills_the_queue_alone() -> None:
    play = fair(A, B, queue_limit=16, queue_reserve=2).awake("a").busy("a", 1)
    for ticket in range(2, 16):
        assert not refusals(play(ev.Arrived(ticket, "b", "many")))

    assert play(ev.Arrived(16, "b", "many")) == [ev.Refuse(16, like(Overloaded))]
    assert not refusals(play(ev.Arrived(17, "b", "few")))
    assert not refusals(play(ev.Arrived(18, "b", "few")))
    assert play(ev.Arrived(19, "b", "third")) == [ev.Refuse(19, like(Overloaded))]


def test_a_failed_start_hands_the_device_on() -> None:
    play = fair(A, B)
    play(ev.Arrived(1, "a"))
    play(ev.Arrived(2, "b"))

    assert play(ev.Broke("a", NOT_READY)) == [
        ev.Refuse(1, NOT_READY),
        ev.Want("gpu", "b"),
        ev.Start("b"),
    ]
    assert play.states() == {"a": State.FAILED, "b": State.STARTING}


def test_who_sleeps_is_in_nobodys_way() -> None:
    """Not even in that of a `batch` request, which waits for an idle device."""
    rungs = {1: {"gpu": 400}}
    sleeper = replace(model("a", gpu=900), rungs=rungs)
    play = Playbook(
        sleeper, model("b", gpu=600), model("c", gpu=800), policy="fair", capacity={"gpu": 1000}
    )
    play.awake("a").later(1000)
    assert ev.Sleep("a", 1) in play(ev.Arrived(1, "b"))
    play(ev.Slept("a"))
    play(ev.Ready("b"))
    play(ev.Finished("b"))
    play(ev.UnloadAsked(2, "b"))
    play(ev.Stopped("b"))
    assert play.states()["a"] is State.ASLEEP

    effects = play(ev.Arrived(3, "c", batch=True))

    assert ev.Stop("a") in effects


def test_who_finds_no_room_to_wake_up_in_sleeps_on() -> None:
    sleeper = replace(model("a", gpu=900), rungs={1: {"gpu": 100}})
    play = Playbook(sleeper, model("b", gpu=600), policy="fair", capacity={"gpu": 1000})
    play.awake("a").later(1000)
    play(ev.Arrived(1, "b"))
    play(ev.Slept("a"))
    play(ev.Ready("b"))
    play(ev.Finished("b"))
    play(ev.UnloadAsked(2, "b"))
    play(ev.Stopped("b"))
    busy = DeviceBusy("A game has it.", retry_after_s=10)

    for ticket in (3, 4):  # the second try is free, as after other failures
        assert ev.Start("a") in play(ev.Arrived(ticket, "a"))
        assert play(ev.Unwoken("a", busy)) == [ev.Refuse(ticket, busy)]
        assert play.states()["a"] is State.ASLEEP

    assert play(ev.Arrived(5, "a")) == [ev.Refuse(5, like(DeviceBusy))]
    play.later(BUSY_BACKOFF_S)
    assert ev.Start("a") in play(ev.Arrived(6, "a"))
    assert play(ev.Ready("a")) == [ev.Grant(6, "a")]
