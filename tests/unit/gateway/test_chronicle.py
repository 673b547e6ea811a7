"""Finished switches, put together from what the feed tells."""

from __future__ import annotations

from typing import Any

from llm_backend.gateway.chronicle import Chronicle, PastSwitch
from llm_backend.switching.feed import Notice
from tests.unit.gateway.clock import Clock


class Desk:
    """A chronicle, and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[PastSwitch] = []
        self.chronicle = Chronicle(self.told.append, self.clock.time, self.wall)

    def wall(self) -> float:
        return 1.8e9 + self.clock.now

    def switch(self, ident: str, outcome: str | None, elapsed_s: float = 0.0, **about: Any) -> None:
        data = {"from": None, "to": "b", "rung": "start", "estimate_s": None, **about}
        data |= {"switch": ident, "outcome": outcome, "elapsed_s": elapsed_s}
        self.chronicle(Notice("switch", data))

    def step(self, step: str, elapsed_s: float = 0.0, switch: str | None = "s1") -> None:
        data = {"model": "b", "step": step, "elapsed_s": elapsed_s, "switch": switch}
        self.chronicle(Notice("step", data))


def test_a_switch_with_its_stages() -> None:
    desk = Desk()
    desk.clock.now = 100.0
    desk.switch("s1", None, **{"from": "a", "estimate_s": 9.5})
    for step, seconds in (("drain_done", 2.0), ("stop", 0.0), ("stop_done", 1.0)):
        desk.step(step, seconds)
    for step in ("start", "memory", "launched"):
        desk.step(step)
    for step, seconds in (("memory_done", 0.5), ("load_done", 4.0), ("start_done", 4.5)):
        desk.step(step, seconds)
    desk.step("load_done", 77.0, switch="s2")
    desk.step("load_done", 77.0, switch=None)
    desk.clock.now = 108.0
    desk.switch("s1", "ok", 8.0, **{"from": "a", "estimate_s": 9.5})

    (past,) = desk.told
    assert past == PastSwitch(
        from_="a",
        to="b",
        rung="start",
        outcome="ok",
        began_at=1.8e9 + 100,
        seconds=8.0,
        estimate_s=9.5,
        stages={"drain": 2.0, "stop": 1.0, "memory": 0.5, "load": 4.0},
    )


def test_what_runs_is_told_while_it_does() -> None:
    desk = Desk()
    assert desk.chronicle.running() == {}
    desk.switch("s1", None)
    desk.clock.now += 3.0
    desk.switch("s2", None, to="c")
    assert desk.chronicle.running() == {"b": 3.0, "c": 0.0}
    desk.switch("s1", "cancelled", 3.0)
    assert desk.chronicle.running() == {"c": 0.0}
    assert [past.outcome for past in desk.told] == ["cancelled"]


def test_one_that_could_not_be_woken_came_up_by_a_start() -> None:
    for step, rung in (
        ("wake_1_done", "asleep-1"),
        ("wake_1_failed", "start"),
        ("wake_1_canary", "start"),
    ):
        desk = Desk()
        desk.switch("s1", None, rung="asleep-1")
        desk.step(step)
        desk.switch("s1", "ok", 1.0, rung="asleep-1")
        assert [past.rung for past in desk.told] == [rung]


def test_an_unload_is_no_switch() -> None:
    desk = Desk()
    desk.switch("s1", None, to=None)
    assert desk.chronicle.running() == {}
    desk.switch("s1", "ok", 1.0, to=None)
    assert desk.told == []


def test_other_notices_are_passed_over() -> None:
    desk = Desk()
    desk.chronicle(Notice("state", {"model": "b", "state": "awake", "switch": "s1"}))
    desk.chronicle(Notice("step", {"step": "shutting_down", "elapsed_s": 0.0}))
    desk.switch("s1", "ok", 1.0)  # it began before anybody listened
    assert desk.told == []
