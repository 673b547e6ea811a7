"""Dialogues with the scheduler: operators who switch and unload, and the manual mode."""

from __future__ import annotations

from llm_backend.errors import ModelNotActive, SwitchSuperseded
from llm_backend.switching import events as ev
from llm_backend.switching.states import State
from tests.unit.switching.playbook import CRASH, HANG, NOT_READY, Playbook, like, model

A, B, C = model("a"), model("b"), model("c")
REPLACED = like(SwitchSuperseded)


# Switching


def test_an_operator_waits_until_the_model_is_awake() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)

    assert play(ev.SwitchAsked(2, "b")) == [ev.Want("gpu", "b"), ev.SetTimer(400.0)]
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == [ev.Reached(2)]


def test_a_switch_to_the_awake_model_is_done_at_once() -> None:
    play = Playbook(A).awake("a")

    assert play(ev.SwitchAsked(1, "a")) == [ev.Reached(1)]


def test_operators_who_want_the_same_share_the_switch() -> None:
    play = Playbook(A)
    play(ev.SwitchAsked(1, "a"))

    assert play(ev.SwitchAsked(2, "a")) == []
    assert play(ev.Ready("a")) == [ev.Reached(1), ev.Reached(2)]


def test_a_switch_goes_before_requests_and_takes_down_their_load() -> None:
    play = Playbook(A, B)
    play(ev.Arrived(1, "a"))

    assert play(ev.SwitchAsked(2, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == [ev.Reached(2), ev.Want("gpu", "a"), ev.Stop("b")]
    assert play(ev.Stopped("b")) == [ev.Start("a")]
    assert play(ev.Ready("a")) == [ev.Grant(1, "a")]


def test_a_later_switch_replaces_an_earlier_one() -> None:
    play = Playbook(A, B, C).awake("a").busy("a", 1)
    play(ev.SwitchAsked(2, "b"))

    assert play(ev.SwitchAsked(3, "c")) == [
        ev.Want("gpu", "c"),
        ev.Refuse(2, like(SwitchSuperseded, "later switch to c")),
    ]
    play(ev.Finished("a"))
    assert play(ev.Stopped("a")) == [ev.Start("c")]


def test_switching_back_calls_the_drain_off() -> None:
    play = Playbook(A, B).awake("a").busy("a", 1)
    play(ev.SwitchAsked(2, "b"))

    assert play(ev.SwitchAsked(3, "a")) == [
        ev.Want("gpu", "a"),
        ev.Refuse(2, REPLACED),
        ev.Reached(3),
    ]


def test_of_fifty_racing_switches_the_last_one_wins() -> None:
    models = [model(f"m{n}") for n in range(50)]
    play = Playbook(*models)
    heard = [effect for n in range(50) for effect in play(ev.SwitchAsked(n, f"m{n}"))]

    heard += play(ev.Stopped("m0"))
    heard += play(ev.Ready("m49"))

    assert [e.ticket for e in heard if isinstance(e, ev.Refuse)] == list(range(49))
    assert [e for e in heard if isinstance(e, ev.Start)] == [ev.Start("m0"), ev.Start("m49")]
    assert heard[-1] == ev.Reached(49)
    assert play.scheduler.wanted == {"gpu": "m49"}


def test_the_last_wish_counts_after_a_restart_even_before_it_can_be_acted_on() -> None:
    play = Playbook(A, B).awake("a")
    assert play(ev.SwitchAsked(1, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]

    assert play(ev.SwitchAsked(2, "a")) == [ev.Want("gpu", "a"), ev.Refuse(1, REPLACED)]
    assert play(ev.Stopped("a")) == [ev.Start("a")]


def test_an_operator_who_hangs_up_does_not_call_the_switch_off() -> None:
    play = Playbook(A, B, unwanted_load="cancel").awake("a").busy("a", 1)
    play(ev.SwitchAsked(2, "b"))

    assert play(ev.Left(2)) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Start("b")]
    assert play(ev.Ready("b")) == []


def test_a_failed_start_is_told_to_the_operator_who_may_try_again_at_once() -> None:
    play = Playbook(A)
    for ticket in range(1, 6):
        assert ev.Start("a") in play(ev.SwitchAsked(ticket, "a"))
        assert play(ev.Broke("a", NOT_READY)) == [ev.Refuse(ticket, NOT_READY)]


def test_a_failed_switch_can_bring_back_the_model_before_it() -> None:
    play = Playbook(A, B, restore_previous=True).awake("a")
    play(ev.SwitchAsked(1, "b"))
    play(ev.Stopped("a"))

    assert play(ev.Broke("b", NOT_READY)) == [
        ev.Refuse(1, NOT_READY),
        ev.Want("gpu", "a"),
        ev.Start("a"),
    ]
    assert play(ev.Broke("a", NOT_READY)) == []


def test_without_that_setting_the_device_stays_empty() -> None:
    play = Playbook(A, B).awake("a")
    play(ev.SwitchAsked(1, "b"))
    play(ev.Stopped("a"))

    assert play(ev.Broke("b", NOT_READY)) == [ev.Refuse(1, NOT_READY)]


def test_what_was_unloaded_is_not_brought_back() -> None:
    play = Playbook(A, B, restore_previous=True).awake("a")
    play(ev.UnloadAsked(1, "a"))
    play(ev.Stopped("a"))
    play(ev.SwitchAsked(2, "b"))

    assert play(ev.Broke("b", NOT_READY)) == [ev.Refuse(2, NOT_READY)]


# Unloading


def test_an_idle_model_is_unloaded_and_wanted_no_more() -> None:
    play = Playbook(A).awake("a")

    assert play(ev.UnloadAsked(1, "a")) == [ev.Want("gpu", None), ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Reached(1)]


def test_a_busy_model_is_drained_first() -> None:
    play = Playbook(A).awake("a").busy("a", 1)

    assert play(ev.UnloadAsked(2, "a")) == [ev.Want("gpu", None), ev.SetTimer(400.0)]
    assert play(ev.Arrived(3, "a")) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]
    assert play(ev.Stopped("a")) == [ev.Reached(2), ev.Want("gpu", "a"), ev.Start("a")]


def test_an_operator_who_hangs_up_does_not_call_the_unload_off() -> None:
    play = Playbook(A).awake("a").busy("a", 1)
    play(ev.UnloadAsked(2, "a"))

    assert play(ev.Left(2)) == []
    assert play(ev.Finished("a")) == [ev.Stop("a")]


def test_what_has_no_engine_is_unloaded_already() -> None:
    assert Playbook(A)(ev.UnloadAsked(1, "a")) == [ev.Reached(1)]


def test_unloading_while_it_loads_ends_the_load_and_the_switch() -> None:
    play = Playbook(A)
    play(ev.SwitchAsked(1, "a"))

    assert play(ev.UnloadAsked(2, "a")) == [
        ev.Refuse(1, like(SwitchSuperseded, "unloaded")),
        ev.Want("gpu", None),
        ev.Stop("a"),
    ]
    assert play(ev.Ready("a")) == []
    assert play(ev.Stopped("a")) == [ev.Reached(2)]


def test_an_engine_that_ends_by_itself_is_unloaded_too() -> None:
    play = Playbook(A).awake("a").busy("a", 1)
    play(ev.UnloadAsked(2, "a"))

    assert play(ev.Broke("a", CRASH)) == [ev.Cut("a", CRASH), ev.Reached(2)]


def test_a_hung_engine_that_is_being_ended_is_unloaded_when_it_has_ended() -> None:
    play = Playbook(A).awake("a")
    play(ev.Hung("a", HANG))

    assert play(ev.UnloadAsked(1, "a")) == [ev.Want("gpu", None)]
    assert play(ev.Stopped("a")) == [ev.Reached(1)]


def test_a_switch_after_an_unload_brings_the_model_back() -> None:
    play = Playbook(A).awake("a").busy("a", 1)
    play(ev.UnloadAsked(2, "a"))

    assert play(ev.SwitchAsked(3, "a")) == [ev.Want("gpu", "a")]
    play(ev.Finished("a"))
    assert play(ev.Stopped("a")) == [ev.Reached(2), ev.Start("a")]
    assert play(ev.Ready("a")) == [ev.Reached(3)]


# The manual mode


def manual(*, busy: bool = False) -> Playbook:
    play = Playbook(A, B, mode="manual").awake("a")
    return play.busy("a", 1) if busy else play


def test_a_request_switches_nothing_and_is_told_who_can() -> None:
    play = manual()

    assert play(ev.Arrived(2, "b")) == [
        ev.Refuse(2, like(ModelNotActive, "bash scripts/switch_model.sh b"))
    ]
    assert play.states() == {"a": State.AWAKE, "b": State.STOPPED}


def test_a_crashed_model_that_is_wanted_may_be_brought_back_by_a_request() -> None:
    play = manual()
    play(ev.Broke("a", CRASH))

    assert play(ev.Arrived(2, "a")) == [ev.Start("a")]


def test_an_unloaded_model_may_not() -> None:
    play = manual(busy=True)
    play(ev.UnloadAsked(2, "a"))

    assert play(ev.Arrived(3, "a")) == [ev.Refuse(3, like(ModelNotActive))]
    play(ev.Finished("a"))
    assert play.states()["a"] is State.STOPPING
    assert play(ev.Arrived(4, "a")) == [ev.Refuse(4, like(ModelNotActive))]


def test_requests_for_the_model_that_an_operator_switches_to_wait_for_it() -> None:
    play = manual(busy=True)
    play(ev.SwitchAsked(2, "b"))

    assert play(ev.Arrived(3, "b")) == []
    assert play(ev.Arrived(4, "a")) == [ev.Refuse(4, like(ModelNotActive))]
    play(ev.Finished("a"))
    play(ev.Stopped("a"))
    assert play(ev.Ready("b")) == [ev.Reached(2), ev.Grant(3, "b")]


def test_requests_do_not_bring_back_what_had_to_leave_for_another_group() -> None:
    small, big = model("small", group="small", gpu=9_000), model("big", gpu=9_000)
    play = Playbook(small, big, mode="manual", capacity={"gpu": 16_000}).awake("small")

    assert play(ev.SwitchAsked(1, "big")) == [
        ev.Want("gpu", "big"),
        ev.Want("small", None),
        ev.Stop("small"),
    ]
    play(ev.Stopped("small"))
    play(ev.Ready("big"))
    assert play(ev.Arrived(2, "small")) == [ev.Refuse(2, like(ModelNotActive))]
