"""Dialogues with the scheduler: a game, ComfyUI or a training run wants the card for a time."""

from __future__ import annotations

from llm_backend.errors import Conflict, DeviceBusy
from llm_backend.switching import events as ev
from llm_backend.switching.states import State
from tests.unit.switching.playbook import Playbook, like, model

CARD = {"gpu": 16_000}
CHAT = model("chat", group="chat", gpu=10_000)
CODE = model("code", group="chat", gpu=5_000)
EMBED = model("embed", group="embed", gpu=4_000)
FREE = model("free", group="free", gpu=0)


def lease(
    mib: int | None, *, ident: str = "x", until: float = 700.0, device: str = "gpu"
) -> ev.DeviceLease:
    return ev.DeviceLease(ident, device, mib, "ComfyUI", until)


def test_the_whole_device_is_cleared_and_its_models_come_back() -> None:
    play = Playbook(CHAT, EMBED, FREE, capacity=CARD).awake("chat", "embed", "free")

    stops = [ev.Stop("chat"), ev.Stop("embed"), ev.Stop("free")]
    assert sorted(play(ev.LeaseTaken(1, lease(None))), key=str) == sorted(stops, key=str)
    assert play(ev.Stopped("chat")) == []
    assert play(ev.Stopped("free")) == []
    assert play(ev.Stopped("embed")) == [ev.Reached(1)]

    given = play(ev.LeaseGiven("x"))

    assert [e for e in given if isinstance(e, ev.Start)] == [
        ev.Start(m) for m in ("chat", "embed", "free")
    ]
    assert play(ev.Ready("chat")) == []


def test_an_empty_device_is_had_at_once() -> None:
    assert Playbook(CHAT)(ev.LeaseTaken(1, lease(None))) == [ev.Reached(1)]


def test_running_requests_finish_first_and_no_new_ones_begin() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat").busy("chat", 1)

    assert play(ev.LeaseTaken(2, lease(None))) == [ev.SetTimer(400.0)]
    assert play(ev.Arrived(3, "chat")) == [ev.Refuse(3, like(DeviceBusy, "ComfyUI"))]
    assert play(ev.Finished("chat")) == [ev.Stop("chat")]
    assert play(ev.Stopped("chat")) == [ev.Reached(2)]


def test_the_drain_deadline_bounds_the_wait() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat").busy("chat", 1)
    play(ev.LeaseTaken(2, lease(None)))

    play.later(300.0)
    cut, stop = play(ev.Timer())

    assert isinstance(cut, ev.Cut)
    assert stop == ev.Stop("chat")


def test_who_is_kept_out_is_told_why_and_for_how_long() -> None:
    play = Playbook(CHAT, capacity=CARD)
    play(ev.LeaseTaken(1, lease(12_000)))
    play.later(40.0)

    (refusal,) = play(ev.Arrived(2, "chat"))

    assert isinstance(refusal, ev.Refuse)
    assert refusal.error.code == "gpu_busy"
    assert refusal.error.retry_after_s == 560.0
    assert str(refusal.error) == (
        "chat has no room: gpu is leased for 560 s more (ComfyUI). "
        "Give it back: llm-backend lease give x"
    )


def test_models_that_fit_beside_it_serve_on() -> None:
    play = Playbook(CHAT, EMBED, capacity=CARD).awake("chat", "embed").busy("embed", 1)

    assert play(ev.LeaseTaken(2, lease(12_000))) == [ev.Stop("chat")]
    assert play(ev.Arrived(3, "embed")) == [ev.Grant(3, "embed")]
    assert play(ev.Stopped("chat")) == [ev.Reached(2)]


def test_of_several_the_idle_leave_before_the_busy_and_nobody_in_vain() -> None:
    rank = model("rank", group="rank", gpu=4_000)
    play = Playbook(CODE, EMBED, rank, capacity=CARD).awake("code", "embed", "rank")
    play.busy("embed", 1)

    assert play(ev.LeaseTaken(2, lease(5_000))) == [ev.Stop("code")]


def test_a_smaller_model_of_the_group_may_come_up_instead_and_stays() -> None:
    play = Playbook(CHAT, CODE, capacity=CARD).awake("chat")
    play(ev.LeaseTaken(1, lease(8_000)))
    play(ev.Stopped("chat"))

    assert play(ev.Arrived(2, "code")) == [ev.Want("chat", "code"), ev.Start("code")]
    assert play(ev.Ready("code")) == [ev.Grant(2, "code")]
    assert play(ev.LeaseGiven("x")) == []


def test_a_load_that_is_in_the_way_is_called_off_and_comes_back() -> None:
    play = Playbook(CHAT, capacity=CARD)
    play(ev.Arrived(1, "chat"))

    refused, stop = sorted(play(ev.LeaseTaken(2, lease(None))), key=lambda e: type(e).__name__)
    assert (refused, stop) == (ev.Refuse(1, like(DeviceBusy)), ev.Stop("chat"))
    assert play(ev.Stopped("chat")) == [ev.Reached(2)]
    assert play(ev.LeaseGiven("x")) == [ev.Start("chat")]


def test_a_switch_is_refused_and_is_what_comes_after_the_lease() -> None:
    play = Playbook(CHAT, CODE, capacity=CARD).awake("code")
    play(ev.LeaseTaken(1, lease(None)))
    play(ev.Stopped("code"))

    assert play(ev.SwitchAsked(2, "chat")) == [
        ev.Want("chat", "chat"),
        ev.Refuse(2, like(DeviceBusy, "ComfyUI")),
    ]
    assert play(ev.LeaseGiven("x")) == [ev.Start("chat")]


def test_a_switch_that_is_refused_leaves_the_model_that_fits_wanted() -> None:
    play = Playbook(CHAT, CODE, capacity=CARD).awake("code")
    play(ev.LeaseTaken(1, lease(8_000)))

    effects = play(ev.SwitchAsked(2, "chat"))

    assert ev.Refuse(2, like(DeviceBusy)) in effects
    assert effects[-1] == ev.Want("chat", "code")
    assert play(ev.LeaseGiven("x")) == []


def test_a_switch_that_is_refused_replaces_no_other() -> None:
    right = model("right", group="right", gpu1=9_000)
    play = Playbook(CHAT, right, capacity={**CARD, "gpu1": 9_000})
    play(ev.LeaseTaken(1, lease(None)))
    play(ev.SwitchAsked(2, "right"))

    assert play(ev.SwitchAsked(3, "chat")) == [
        ev.Want("chat", "chat"),
        ev.Refuse(3, like(DeviceBusy)),
    ]
    assert play(ev.Ready("right")) == [ev.Reached(2)]


def test_a_lease_that_ends_while_the_device_is_cleared_calls_the_drain_off() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat").busy("chat", 1)
    play(ev.LeaseTaken(2, lease(None)))

    assert play(ev.LeaseGiven("x")) == [ev.Refuse(2, like(Conflict, "lease x ended"))]
    assert play.states() == {"chat": State.AWAKE}


def test_a_lease_that_ends_while_the_engine_stops_brings_it_back_afterwards() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat")
    play(ev.LeaseTaken(1, lease(None)))

    assert play(ev.LeaseGiven("x")) == [ev.Refuse(1, like(Conflict))]
    assert play(ev.Stopped("chat")) == [ev.Start("chat")]


def test_an_unloaded_model_does_not_come_back() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat")
    play(ev.LeaseTaken(1, lease(None)))
    play(ev.Stopped("chat"))

    assert play(ev.UnloadAsked(2, "chat")) == [ev.Want("chat", None), ev.Reached(2)]
    assert play(ev.LeaseGiven("x")) == []


def test_two_leases_and_what_the_last_one_gives_back() -> None:
    play = Playbook(CHAT, capacity=CARD).awake("chat")
    play(ev.LeaseTaken(1, lease(4_000, ident="x")))
    assert play(ev.LeaseTaken(2, lease(4_000, ident="y", until=900.0))) == [ev.Stop("chat")]
    assert play(ev.Stopped("chat")) == [ev.Reached(2)]

    assert play(ev.LeaseGiven("y")) == [ev.Start("chat")]
    assert play(ev.LeaseGiven("x")) == []


def test_a_lease_that_nobody_has_is_given_in_vain() -> None:
    assert Playbook(CHAT, capacity=CARD)(ev.LeaseGiven("nobody")) == []


def test_a_device_of_unknown_size_is_leased_as_a_whole() -> None:
    play = Playbook(CHAT).awake("chat")

    assert play(ev.LeaseTaken(1, lease(None))) == [ev.Stop("chat")]
    assert play(ev.Arrived(2, "chat")) == [ev.Refuse(2, like(DeviceBusy))]
    play(ev.Stopped("chat"))
    assert play(ev.LeaseGiven("x")) == [ev.Start("chat")]


def test_another_device_goes_on() -> None:
    right = model("right", group="right", gpu1=9_000)
    play = Playbook(CHAT, right, capacity={**CARD, "gpu1": 9_000}).awake("chat", "right")

    assert play(ev.LeaseTaken(1, lease(None))) == [ev.Stop("chat")]
    assert play(ev.Arrived(2, "right")) == [ev.Grant(2, "right")]


def test_an_engine_that_is_found_beside_a_lease_has_no_place() -> None:
    play = Playbook(CHAT, capacity=CARD)
    play(ev.LeaseTaken(1, lease(None)))

    assert play(ev.Adopted("chat")) == [ev.Stop("chat"), ev.Want("chat", "chat")]
    play(ev.Stopped("chat"))
    assert play(ev.LeaseGiven("x")) == [ev.Start("chat")]


def test_pinned_models_leave_for_a_lease_too() -> None:
    pinned = ev.Needs("chat", "chat", 1, {"gpu": 10_000}, pinned=True)
    play = Playbook(pinned, capacity=CARD).awake("chat")

    assert play(ev.LeaseTaken(1, lease(None))) == [ev.Stop("chat")]


def test_under_fair_nobody_is_kept_against_a_lease() -> None:
    play = Playbook(CHAT, capacity=CARD, policy="fair").awake("chat").busy("chat", 1)

    assert ev.SetTimer(400.0) in play(ev.LeaseTaken(2, lease(None)))
    assert play.states() == {"chat": State.DRAINING}
