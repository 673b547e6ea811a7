"""Who held the devices, as the history shows it."""

from __future__ import annotations

from typing import Any

from llm_backend.gateway.timeline import HELD_KEPT, SWITCHES_KEPT, Timeline
from llm_backend.switching.feed import Notice, NoticeKind
from tests.unit.gateway.clock import Clock


class Desk:
    """A timeline of two models on one card, and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        devices = {"a": ("gpu0",), "b": ("gpu0",)}
        self.timeline = Timeline(devices, self.clock.time, lambda: 1.8e9 + self.clock.now)

    def tell(self, kind: NoticeKind, **data: Any) -> None:
        self.timeline(Notice(kind, data))

    def state(self, model: str, state: str) -> None:
        self.tell("state", model=model, state=state, switch=None)

    def switch(self, ident: str, outcome: str | None, elapsed_s: float = 0.0) -> None:
        about = {"switch": ident, "from": "a", "to": "b", "rung": "start", "estimate_s": 9.5}
        self.tell("switch", **about, outcome=outcome, elapsed_s=elapsed_s)

    def held(self) -> list[tuple[Any, ...]]:
        return [
            (x["name"], x["state"], x["began_s_ago"], x["ended_s_ago"])
            for x in self.timeline.describe()["held"]
        ]


def test_states_follow_each_other_and_a_stopped_model_holds_nothing() -> None:
    desk = Desk()
    desk.state("a", "starting")
    desk.clock.now = 10.0
    desk.state("a", "awake")
    desk.clock.now = 40.0
    desk.state("a", "stopping")
    desk.clock.now = 41.0
    desk.state("a", "stopped")
    desk.state("b", "starting")
    desk.clock.now = 50.0

    assert desk.held() == [
        ("a", "starting", 50.0, 40.0),
        ("a", "awake", 40.0, 10.0),
        ("a", "stopping", 10.0, 9.0),
        ("b", "starting", 9.0, None),
    ]
    assert desk.timeline.describe()["covers_s"] == 50.0
    assert desk.timeline.describe()["held"][0]["devices"] == ["gpu0"]


def test_a_lease_is_shown_by_what_it_is_for() -> None:
    desk = Desk()
    about = {"id": "5f2c", "device": "gpu0", "mib": None, "reason": "ComfyUI", "expires_in_s": 60.0}
    desk.tell("lease", **about, state="taken")
    desk.clock.now = 2.0
    desk.tell("lease", **about, state="ready")
    desk.clock.now = 62.0
    desk.tell("lease", **about, state="expired")

    assert desk.held() == [("ComfyUI", "leasing", 62.0, 60.0), ("ComfyUI", "leased", 60.0, 0.0)]


def test_a_switch_is_there_once_it_is_over() -> None:
    desk = Desk()
    desk.switch("s1", None)
    desk.tell("step", model="b", step="load_done", elapsed_s=7.0, switch="s1")
    assert desk.timeline.describe()["switches"] == []
    desk.switch("s1", "ok", 8.25)

    assert desk.timeline.describe()["switches"] == [
        {
            "from": "a",
            "to": "b",
            "rung": "start",
            "outcome": "ok",
            "began_at": "2027-01-15T08:00:00.000+00:00",
            "seconds": 8.25,
            "estimate_s": 9.5,
            "stages": {"load": 7.0},
        }
    ]


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    desk = Desk()
    for number in range(HELD_KEPT * 2):
        desk.clock.now = float(number)
        desk.state("a", "awake" if number % 2 else "stopping")
        desk.switch(f"s{number}", None)
        desk.switch(f"s{number}", "ok")

    shown = desk.timeline.describe()
    assert len(shown["held"]) == HELD_KEPT + 1
    assert (shown["held"][-1]["began_s_ago"], shown["held"][-1]["ended_s_ago"]) == (0.0, None)
    assert len(shown["switches"]) == SWITCHES_KEPT
