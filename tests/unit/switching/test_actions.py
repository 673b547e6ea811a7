"""What holds under every policy: pinned models, and models that are unloaded after a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_backend.errors import ModelNotActive
from llm_backend.switching import events as ev
from llm_backend.switching.states import State
from tests.unit.switching.playbook import Playbook, like, model

A, B = model("a"), model("b")
PINNED = replace(A, pinned=True)
BRIEF = replace(A, idle_ttl_s=60.0)


@pytest.fixture(params=["fifo", "fair"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_pinned_model_stays_and_requests_for_others_are_told_so(policy: str) -> None:
    play = Playbook(PINNED, B, policy=policy).awake("a")
    play.later(1000.0)

    assert play(ev.Arrived(1, "b")) == [ev.Refuse(1, like(ModelNotActive, "a is pinned"))]
    assert play.states()["a"] is State.AWAKE


def test_an_operator_may_send_it_away(policy: str) -> None:
    play = Playbook(PINNED, B, policy=policy).awake("a")

    assert play(ev.SwitchAsked(1, "b")) == [ev.Want("gpu", "b"), ev.Stop("a")]


def test_a_pinned_model_that_is_not_awake_keeps_nobody_out(policy: str) -> None:
    play = Playbook(PINNED, B, policy=policy)

    assert play(ev.Arrived(1, "b")) == [ev.Want("gpu", "b"), ev.Start("b")]


def test_beside_a_pinned_model_others_come_and_go(policy: str) -> None:
    small, big = model("small", group="small", gpu=4), model("big", group="big", gpu=7)
    pinned = replace(model("a", gpu=6), pinned=True)
    play = Playbook(pinned, small, big, policy=policy, capacity={"gpu": 12}).awake("a", "small")

    assert play(ev.Arrived(1, "big")) == [ev.Refuse(1, like(ModelNotActive, "a is pinned"))]
    assert play(ev.Arrived(2, "small")) == [ev.Grant(2, "small")]


def test_an_idle_model_is_unloaded_after_its_time(policy: str) -> None:
    play = Playbook(BRIEF, policy=policy)
    assert play(ev.Adopted("a")) == [ev.Want("gpu", "a"), ev.SetTimer(160.0)]
    play.later(60.0)

    assert play(ev.Timer()) == [ev.Want("gpu", None), ev.Stop("a")]


def test_its_time_begins_anew_with_each_request(policy: str) -> None:
    play = Playbook(BRIEF, policy=policy).awake("a").busy("a", 1)
    play.later(60.0)
    assert play(ev.Timer()) == []

    assert not play.scheduler.finish_at_once("a", play.now)
    assert play(ev.Finished("a")) == [ev.SetTimer(220.0)]
    play.later(59.0)
    assert play(ev.Timer()) == [ev.SetTimer(220.0)]


def test_a_model_that_is_unloaded_for_idleness_is_loaded_again_when_asked_for(policy: str) -> None:
    play = Playbook(BRIEF, policy=policy).awake("a")
    play.later(60.0)
    play(ev.Timer())

    assert play(ev.Arrived(1, "a")) == []
    assert play(ev.Stopped("a")) == [ev.Want("gpu", "a"), ev.Start("a")]
