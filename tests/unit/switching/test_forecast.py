"""How long a request will wait, told stage by stage."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.switching import events as ev
from llm_backend.switching.entry import Claim
from llm_backend.switching.estimates import CAREFUL, GUESS_S, LONG, MARGIN, USUAL, Outlook
from llm_backend.switching.forecast import NO_STEPS
from llm_backend.switching.states import State
from tests.unit.switching.playbook import NOT_READY, Playbook, model

A, B, C = (model(name, seats=2) for name in "abc")
TIMES = {
    "a": {"start": [10.0], "stop": [1.0]},
    "b": {"start": [20.0], "stop": [2.0]},
    "c": {"start": [30.0], "stop": [3.0]},
}
STEPS = {"memory": [1.0], "launch": [2.0], "load": [15.0], "warm_up": [2.0]}
LEASE_S = 4.0


def playbook(**rules: Any) -> Playbook:
    """A scheduler on whose models a lease is out for four seconds, as far as is known."""
    play = Playbook(A, B, C, durations=TIMES, **rules)
    for entry in play.scheduler.entries.values():
        entry.served, entry.busy_s = 10.0, 10 * LEASE_S
        entry.last_used = play.now
    return play


def comes(play: Playbook, name: str, key: str = "") -> Outlook:
    """What a request has to expect that comes now."""
    return play.scheduler.forecast(play.now).newcomer(name, Claim(play.now, key))


def test_a_model_that_nobody_is_in_the_way_of_takes_its_start() -> None:
    assert comes(playbook(), "a") == Outlook(1, 10.0)


def test_a_model_that_never_came_up_is_guessed_and_that_is_said() -> None:
    play = Playbook(A)

    assert comes(play, "a") == Outlook(1, GUESS_S, is_measured=False)


def test_a_start_under_way_counts_with_what_is_left_of_it() -> None:
    play = playbook()
    play(ev.Arrived(1, "b"))
    play.later(15)

    assert play.scheduler.forecast(play.now).waiting("b", 1) == Outlook(1, 5.0)
    assert comes(play, "b") == Outlook(2, 5.0)


@pytest.mark.parametrize(
    ("step", "left_s"),
    [("memory", 1 + 2 + 15 + 2), ("load", 15 + 2), ("warm_up", 2), ("gone", 20.0 - 5)],
)
def test_where_its_step_is_known_what_follows_counts_in_full(step: str, left_s: float) -> None:
    play = Playbook(A, durations={"a": {"start": [20.0], **STEPS}})
    play(ev.Arrived(1, "a"))
    play.later(5)

    forecast = play.scheduler.forecast(play.now, USUAL, {"a": (step, play.now)})

    assert forecast.awake_s("a") == left_s


def test_who_is_idle_leaves_at_once_and_who_works_finishes_first() -> None:
    play = playbook().awake("a")
    assert comes(play, "b").wait_s == 1.0 + 20.0

    play.busy("a", 1)
    assert comes(play, "b").wait_s == LEASE_S / 2 + 1.0 + 20.0


def test_a_drain_is_never_longer_than_its_deadline() -> None:
    play = playbook(drain_s=0.5).awake("a").busy("a", 1)

    assert comes(play, "b").wait_s == 0.5 + 1.0 + 20.0


def test_what_stops_counts_with_what_is_left_of_it() -> None:
    play = playbook().awake("a")
    play(ev.Arrived(1, "b"))
    play.later(0.75)

    assert play.scheduler.forecast(play.now).waiting("b", 1) == Outlook(1, 0.25 + 20.0)


def test_models_in_front_come_up_work_and_leave() -> None:
    play = playbook().awake("a")
    play(ev.Arrived(1, "b"))

    assert comes(play, "c") == Outlook(2, 1.0 + 20.0 + LEASE_S + 2.0 + 30.0)
    assert comes(play, "b") == Outlook(2, 1.0 + 20.0), "those behind do not count"


def test_places_of_a_model_are_waited_for() -> None:
    play = playbook().awake("a").busy("a", 1, 2)
    play(ev.Arrived(3, "a"))

    assert play.scheduler.forecast(play.now).waiting("a", 3) == Outlook(1, LEASE_S / 2)
    assert comes(play, "a") == Outlook(2, 2 * LEASE_S / 2)


def test_where_no_request_was_served_yet_nothing_is_known_of_places() -> None:
    play = Playbook(A, durations=TIMES).awake("a").busy("a", 1, 2)

    assert not comes(play, "a").is_measured


def test_under_fifo_a_model_serves_only_those_who_came_before_the_others() -> None:
    play = playbook()
    for ticket, name in enumerate("aaab"):
        play.later(0.01)
        play(ev.Arrived(ticket, name))
    play.later(0.01)

    outlook = comes(play, "a")

    turns_s = 1.5 * LEASE_S + 1.0 + 20.0 + LEASE_S + 2.0 + 10.0
    assert outlook.place == 5
    assert outlook.wait_s == pytest.approx(10.0 - 0.04 + turns_s)


def test_under_fair_a_model_in_demand_has_its_whole_turn() -> None:
    play = playbook(policy="fair").awake("a")
    play.scheduler.entries["a"].pause_s = 0.1
    play.busy("a", 1)
    turn_s = 0.5 * (1.0 + 20.0 + 2.0 + 10.0)
    assert comes(play, "b").wait_s == turn_s + 1.0 + 20.0

    play.scheduler.entries["a"].pause_s = 30.0
    assert comes(play, "b").wait_s == LEASE_S / 2 + 1.0 + 20.0


def test_under_fair_keys_take_turns_and_batch_requests_are_behind() -> None:
    play = playbook(policy="fair")
    for ticket in range(6):
        play(ev.Arrived(ticket, "a", "many"))
    play(ev.Arrived(7, "b", batch=True))

    assert comes(play, "a", "many").place == 7
    assert comes(play, "a", "few").place == 2
    assert comes(play, "c").place == 7, "nobody is served before it on b"


def test_a_batch_request_waits_until_the_device_was_idle_for_long() -> None:
    play = playbook(policy="fair").awake("a").busy("a", 1)
    play(ev.Arrived(2, "b", batch=True))

    outlook = play.scheduler.forecast(play.now).waiting("b", 2)

    there_and_back_s = 1.0 + 20.0 + 2.0 + 10.0
    assert outlook.wait_s == LEASE_S / 2 + 3 * there_and_back_s + 1.0 + 20.0


def test_an_operators_model_comes_first_and_has_its_turn() -> None:
    play = playbook(policy="fair").awake("a")
    play(ev.SwitchAsked(9, "b"))

    turn_s = 0.5 * 2 * (20.0 + 2.0)
    assert play.scheduler.forecast(play.now).awake_s("b") == 1.0 + 20.0
    assert comes(play, "c").wait_s == 1.0 + 20.0 + turn_s + 2.0 + 30.0


def test_models_that_fit_beside_each_other_do_not_wait_for_each_other() -> None:
    small = model("small", group="other")
    play = Playbook(A, small, durations={"a": {"start": [10.0]}, "small": {"start": [3.0]}})
    play(ev.Arrived(1, "a"))

    assert comes(play, "small") == Outlook(1, 3.0)


def test_a_model_that_drains_or_stops_has_to_leave_before_it_comes_back() -> None:
    play = playbook().awake("a").busy("a", 1)
    play(ev.UnloadAsked(9, "a"))
    assert play.states()["a"] is State.DRAINING
    assert comes(play, "a").wait_s == LEASE_S / 2 + 1.0 + 10.0

    play(ev.Finished("a"))
    assert play.states()["a"] is State.STOPPING
    assert comes(play, "a").wait_s == 1.0 + 10.0


def test_a_load_that_nobody_wants_is_finished_or_broken_off() -> None:
    for unwanted, left_s in (("finish", 10.0 + 1.0), ("cancel", 1.0)):
        play = playbook(unwanted_load=unwanted, policy="fifo")
        play(ev.Arrived(1, "a"))
        play(ev.Left(1))
        assert comes(play, "b").wait_s == left_s + 20.0


def test_a_failed_model_is_started_anew() -> None:
    play = playbook()
    play(ev.Arrived(1, "a"))
    play(ev.Broke("a", NOT_READY))

    assert comes(play, "a") == Outlook(1, 10.0)


def test_who_has_no_place_comes_back_when_a_turn_has_made_one() -> None:
    careful = playbook()
    careful(ev.Arrived(1, "b"))
    forecast = careful.scheduler.forecast(careful.now, CAREFUL, NO_STEPS)
    assert forecast.back_s("b", Claim(careful.now)) == MARGIN * 20.0
    assert forecast.back_s("c", Claim(careful.now)) == pytest.approx(
        MARGIN * (20.0 + 2.0 + 30.0) + LONG * LEASE_S
    )

    careful(ev.Arrived(2, "c"))
    careful.later(0.01)
    forecast = careful.scheduler.forecast(careful.now)
    there_and_back_s = LEASE_S + 2.0 + 30.0 + LEASE_S + 3.0 + 20.0
    assert forecast.back_s("b", Claim(careful.now)) == pytest.approx(there_and_back_s + 19.99)
