"""Dialogues with the scheduler: groups, capacity, several devices, engines left by another gateway."""

from __future__ import annotations

from llm_backend.errors import SwitchSuperseded
from llm_backend.switching import events as ev
from llm_backend.switching.states import State
from tests.unit.switching.playbook import Playbook, like, model

CARD = {"gpu": 16_000}
CHAT = model("chat", group="chat", gpu=10_000)
CODE = model("code", group="chat", gpu=12_000)
EMBED = model("embed", group="embed", gpu=4_000)
RANK = model("rank", group="rank", gpu=4_000)

PAIR = {"gpu0": 16_000, "gpu1": 16_000}
LEFT = model("left", group="gpu0", gpu0=9_000)
RIGHT = model("right", group="gpu1", gpu1=9_000)
WIDE = model("wide", group="gpu0+gpu1", gpu0=12_000, gpu1=12_000)


def test_a_small_model_stays_beside_the_chat_model() -> None:
    play = Playbook(CHAT, CODE, EMBED, capacity=CARD).awake("chat", "embed")

    assert play(ev.Arrived(1, "code")) == [ev.Want("chat", "code"), ev.Stop("chat")]
    assert play(ev.Arrived(2, "embed")) == [ev.Grant(2, "embed")]
    assert play(ev.Stopped("chat")) == [ev.Start("code")]


def test_a_small_model_loads_while_others_switch() -> None:
    play = Playbook(CHAT, CODE, EMBED, capacity=CARD).awake("chat").busy("chat", 1)
    play(ev.Arrived(2, "code"))

    # In line behind code, but it takes nothing that code will need.
    assert play(ev.Arrived(3, "embed")) == [ev.Want("embed", "embed"), ev.Start("embed")]


def test_the_longest_unused_makes_room_and_is_wanted_no_more() -> None:
    play = Playbook(CHAT, EMBED, RANK, capacity=CARD).awake("embed", "rank")
    play.busy("embed", 1)(ev.Finished("embed"))

    assert play(ev.Arrived(2, "chat")) == [
        ev.Want("chat", "chat"),
        ev.Want("rank", None),
        ev.Stop("rank"),
    ]


def test_a_model_that_just_finished_is_not_unused() -> None:
    play = Playbook(CHAT, EMBED, RANK, capacity=CARD).awake("embed", "rank")
    play.busy("embed", 1).later(1.0)
    play.busy("rank", 2).later(1.0)
    play(ev.Finished("rank"))
    play.later(1.0)
    play(ev.Finished("embed"))

    assert ev.Stop("rank") in play(ev.Arrived(3, "chat"))


def test_a_drain_for_room_is_called_off_when_there_is_room_elsewhere() -> None:
    play = Playbook(CHAT, EMBED, RANK, capacity=CARD).awake("embed", "rank")
    play.busy("embed", 1).later(1.0)
    play.busy("rank", 2)
    assert ev.SetTimer(401.0) in play(ev.Arrived(3, "chat"))
    assert play.states()["embed"] is State.DRAINING

    assert play(ev.Finished("rank")) == [
        ev.Want("rank", None),
        ev.Stop("rank"),
        ev.Want("embed", "embed"),
    ]
    assert play.states()["embed"] is State.AWAKE


def test_a_model_too_many_for_the_room_that_those_ahead_will_need_waits() -> None:
    play = Playbook(CHAT, CODE, EMBED, RANK, capacity=CARD).awake("chat").busy("chat", 1)
    play(ev.Arrived(2, "code"))
    play(ev.Arrived(3, "embed"))

    # rank fits beside code, and beside chat and embed, but not beside code and embed.
    assert play(ev.Arrived(4, "rank")) == []


def test_two_devices_switch_independently() -> None:
    other = model("other", group="gpu0", gpu0=9_000)
    play = Playbook(LEFT, other, RIGHT, capacity=PAIR).awake("left", "right").busy("left", 1)

    assert play(ev.Arrived(2, "other")) == [ev.Want("gpu0", "other"), ev.SetTimer(400.0)]
    assert play(ev.Arrived(3, "right")) == [ev.Grant(3, "right")]


def test_a_model_over_two_devices_waits_for_both() -> None:
    play = Playbook(LEFT, RIGHT, WIDE, capacity=PAIR).awake("left", "right")

    play(ev.Arrived(1, "wide"))
    assert play.states() == dict.fromkeys(("left", "right"), State.STOPPING) | {
        "wide": State.STOPPED
    }
    assert play(ev.Stopped("left")) == []
    assert play(ev.Stopped("right")) == [ev.Start("wide")]


def test_a_model_over_two_devices_is_not_overtaken_on_one_of_them() -> None:
    play = Playbook(LEFT, RIGHT, WIDE, capacity=PAIR).awake("left").busy("left", 1)
    play(ev.Arrived(2, "wide"))

    for ticket in range(3, 20, 2):
        assert play(ev.Arrived(ticket, "right")) == []
        assert play(ev.Arrived(ticket + 1, "left")) == []
    play(ev.Finished("left"))
    assert play(ev.Stopped("left")) == [ev.Start("wide")]


def test_after_it_both_devices_are_used_at_once_again() -> None:
    play = Playbook(LEFT, RIGHT, WIDE, capacity=PAIR).awake("wide").busy("wide", 1)
    play(ev.Arrived(2, "left"))
    play(ev.Arrived(3, "right"))
    play(ev.Finished("wide"))

    starts = [e for e in play(ev.Stopped("wide")) if isinstance(e, ev.Start)]

    assert starts == [ev.Start("left"), ev.Start("right")]


def test_a_switch_takes_down_a_load_of_another_group_that_is_in_its_way() -> None:
    play = Playbook(LEFT, WIDE, capacity=PAIR)
    play(ev.Arrived(1, "left"))

    assert play(ev.SwitchAsked(2, "wide")) == [
        ev.Want("gpu0+gpu1", "wide"),
        ev.Want("gpu0", None),
        ev.Stop("left"),
    ]


def test_a_later_switch_of_another_group_replaces_one_that_it_excludes() -> None:
    play = Playbook(LEFT, RIGHT, WIDE, capacity=PAIR)
    play(ev.SwitchAsked(1, "left"))

    assert play(ev.SwitchAsked(2, "wide")) == [
        ev.Want("gpu0+gpu1", "wide"),
        ev.Refuse(1, like(SwitchSuperseded)),
        ev.Want("gpu0", None),
        ev.Stop("left"),
    ]
    assert play(ev.Stopped("left")) == [ev.Start("wide")]


def test_switches_that_fit_beside_each_other_are_both_reached() -> None:
    play = Playbook(LEFT, RIGHT, capacity=PAIR)
    play(ev.SwitchAsked(1, "left"))

    assert play(ev.SwitchAsked(2, "right")) == [ev.Want("gpu1", "right"), ev.Start("right")]
    assert play(ev.Ready("right")) == [ev.Reached(2)]
    assert play(ev.Ready("left")) == [ev.Reached(1)]


def test_a_switch_that_is_taken_back_before_it_began_leaves_the_awake_model_wanted() -> None:
    play = Playbook(CHAT, CODE, EMBED, RANK, capacity=CARD).awake("chat", "embed")
    play(ev.UnloadAsked(1, "embed"))
    play(ev.SwitchAsked(2, "rank"))
    play(ev.SwitchAsked(3, "embed"))
    assert play(ev.SwitchAsked(4, "code")) == [ev.Want("chat", "code")]

    assert play(ev.UnloadAsked(5, "code")) == [
        ev.Refuse(4, like(SwitchSuperseded)),
        ev.Want("chat", "chat"),
        ev.Reached(5),
    ]
    assert play.states()["chat"] is State.AWAKE


# Engines that an earlier gateway left


def test_an_engine_that_is_found_is_used_without_a_load() -> None:
    play = Playbook(CHAT)

    assert play(ev.Adopted("chat")) == [ev.Want("chat", "chat")]
    assert play(ev.Arrived(1, "chat")) == [ev.Grant(1, "chat")]


def test_of_two_engines_of_a_group_the_second_is_ended() -> None:
    play = Playbook(CHAT, CODE, capacity=CARD).awake("code")

    assert play(ev.Adopted("chat")) == [ev.Stop("chat")]
    assert play(ev.Arrived(1, "code")) == [ev.Grant(1, "code")]


def test_an_engine_that_has_no_place_any_more_is_ended_and_gets_no_request() -> None:
    play = Playbook(CHAT, EMBED, RANK, capacity=CARD).awake("chat", "embed")

    assert play(ev.Adopted("rank")) == [ev.Stop("rank")]
    assert play(ev.Arrived(1, "rank")) == []
    assert play(ev.Stopped("rank")) == [
        ev.Want("rank", "rank"),
        ev.Want("chat", None),
        ev.Stop("chat"),
    ]
