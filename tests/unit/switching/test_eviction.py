"""Who has to leave so that a model fits."""

from __future__ import annotations

import pytest

from llm_backend.switching.events import Needs
from llm_backend.switching.eviction import (
    Occupant,
    exclude_each_other,
    fits_beside,
    has_room,
    make_room,
    overcommitted,
)
from tests.unit.switching.playbook import model

CARD = {"gpu": 16_000}
CHAT = model("chat", group="chat", gpu=10_000)
CODE = model("code", group="chat", gpu=9_000)
EMBED = model("embed", group="embed", gpu=4_000)
RANK = model("rank", group="rank", gpu=4_000)
WIDE = model("wide", group="wide", gpu=10_000, gpu1=10_000)


def test_models_of_a_group_exclude_each_other_however_small_they_are() -> None:
    assert exclude_each_other(CHAT, CODE)
    assert not exclude_each_other(CHAT, EMBED)


@pytest.mark.parametrize(
    ("models", "full"),
    [
        ([], set()),
        ([CHAT, EMBED], set()),
        ([CHAT, EMBED, RANK], {"gpu"}),
        ([model("exact", gpu=16_000)], set()),
        ([model("too large", gpu=16_001)], {"gpu"}),
        ([model("elsewhere", npu=99_000)], set()),
    ],
    ids=lambda value: str([m.model for m in value]) if isinstance(value, list) else None,
)
def test_a_device_is_overcommitted_when_more_is_reserved_than_it_has(
    models: list[Needs], full: set[str]
) -> None:
    assert overcommitted(models, CARD) == full


def test_there_is_room_beside_engines_of_other_groups_that_leave_enough() -> None:
    assert has_room(EMBED, [CHAT], CARD)
    assert not has_room(CODE, [CHAT], {})
    assert not has_room(RANK, [CHAT, EMBED], CARD)


def test_who_stands_ahead_counts_once_a_group() -> None:
    assert fits_beside(EMBED, [CHAT, model("chat2", group="chat", gpu=12_000)], CARD)
    assert not fits_beside(EMBED, [CHAT, RANK], CARD)
    assert not fits_beside(CODE, [CHAT], {})


def test_everything_of_the_group_leaves() -> None:
    assert make_room(CHAT, [Occupant(CODE), Occupant(EMBED)], CARD) == ["code"]


def test_an_empty_device_needs_nobody_to_leave() -> None:
    assert make_room(CHAT, [], CARD) == []


def test_the_idle_leave_before_the_busy() -> None:
    occupants = [Occupant(EMBED, busy=1, last_used=1.0), Occupant(RANK, busy=0, last_used=9.0)]

    assert make_room(CHAT, occupants, CARD) == ["rank"]


def test_of_the_idle_the_longest_unused_leaves_first() -> None:
    occupants = [Occupant(EMBED, last_used=9.0), Occupant(RANK, last_used=1.0)]

    assert make_room(CHAT, occupants, CARD) == ["rank"]


def test_nobody_leaves_in_vain() -> None:
    small, big = model("small", group="s", gpu=1_000), model("big", group="b", gpu=9_000)
    occupants = [Occupant(small, last_used=1.0), Occupant(big, last_used=2.0)]

    assert make_room(CHAT, occupants, CARD) == ["big"]


def test_a_model_over_two_devices_makes_room_on_both() -> None:
    other = model("other", group="other", gpu1=9_000)
    far = model("far", group="far", gpu2=9_000)
    occupants = [Occupant(CHAT), Occupant(other), Occupant(far)]

    victims = make_room(WIDE, occupants, {"gpu": 16_000, "gpu1": 16_000, "gpu2": 16_000})

    assert sorted(victims or []) == ["chat", "other"]


def test_who_may_not_leave_is_waited_for() -> None:
    assert make_room(CHAT, [Occupant(CODE, fixed=True)], CARD) is None
    assert make_room(CHAT, [Occupant(RANK, fixed=True), Occupant(EMBED, fixed=True)], CARD) is None


def test_another_leaves_instead_of_one_who_may_not() -> None:
    occupants = [Occupant(RANK, fixed=True, last_used=1.0), Occupant(EMBED, last_used=9.0)]

    assert make_room(CHAT, occupants, CARD) == ["embed"]


def test_what_those_ahead_in_line_will_need_is_not_taken() -> None:
    assert make_room(RANK, [], CARD, ahead=[CHAT]) == []
    assert make_room(RANK, [], CARD, ahead=[CHAT, EMBED]) is None
    assert make_room(CODE, [], CARD, ahead=[CHAT]) is None
