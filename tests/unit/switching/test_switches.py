"""Each switch has an id of its own, and is told of when it begins and when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.switching.feed import Feed, Notice
from llm_backend.switching.states import State
from llm_backend.switching.switches import Move, Switches

STOPPED, STARTING, AWAKE = State.STOPPED, State.STARTING, State.AWAKE
DRAINING, STOPPING, ASLEEP, FAILED = State.DRAINING, State.STOPPING, State.ASLEEP, State.FAILED


class Desk:
    """Tells of moves as the switcher does, and keeps what is published."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.books = Switches(self.feed, {"b": 9.5}.get)
        self.now = 100.0
        self.notices: list[Notice] = []
        self.states: dict[str, State] = {}

    def move(self, model: str, state: State, aim: str | None = None, rung: Any = None) -> Any:
        """Move a model; return the id that its state was published with."""
        move = Move(model, self.states.get(model, STOPPED), state, aim, rung)
        self.states[model] = state
        self.books.begin(move, self.now)
        self.feed.publish("state", model=model, state=state)
        self.books.end(move, self.now)
        (told,) = [n.data["switch"] for n in self.notices if n.kind == "state"][-1:]
        return told

    def settle(self) -> None:
        """Come to the end of what one event has changed."""
        self.books.tidy(self.now)
        self.now += 1.0

    def step(self, model: str) -> Any:
        self.feed.publish("step", model=model, step="load")
        return self.notices[-1].data["switch"]

    @property
    def told(self) -> list[tuple[Any, ...]]:
        fields = ("switch", "from", "to", "rung", "outcome", "elapsed_s")
        return [tuple(n.data[f] for f in fields) for n in self.notices if n.kind == "switch"]


@pytest.fixture
def desk() -> Any:
    desk = Desk()
    with desk.feed.listening(desk.notices.append):
        yield desk


def awake(desk: Desk, model: str) -> None:
    desk.move(model, STARTING)
    desk.move(model, AWAKE)
    desk.settle()
    desk.notices.clear()


def test_a_switch_has_one_id_from_the_drain_to_the_first_answer(desk: Desk) -> None:
    awake(desk, "a")
    ident = desk.move("a", DRAINING, aim="b")
    desk.settle()
    assert desk.move("a", STOPPING, aim="b") == ident
    assert desk.step("a") == ident
    desk.settle()
    assert desk.move("a", STOPPED, aim="b") == ident
    assert desk.move("b", STARTING) == ident
    desk.settle()
    assert desk.step("b") == ident
    assert desk.move("b", AWAKE) == ident
    desk.settle()

    assert desk.told == [
        (ident, "a", "b", "start", None, 0.0),
        (ident, "a", "b", "start", "ok", 3.0),
    ]
    assert (desk.step("a"), desk.step("b")) == (None, None)


def test_it_tells_how_long_it_was_to_take(desk: Desk) -> None:
    awake(desk, "a")
    desk.move("a", STOPPING, aim="b")
    desk.move("a", STOPPED, aim="b")
    desk.move("b", STARTING)
    desk.move("b", AWAKE)
    desk.move("a", STARTING)
    told = [n.data["estimate_s"] for n in desk.notices if n.kind == "switch"]
    assert told == [9.5, 9.5, None]


def test_the_next_switch_has_another_id(desk: Desk) -> None:
    first = desk.move("a", STARTING)
    desk.move("a", AWAKE)
    desk.settle()
    second = desk.move("a", STOPPING, aim="b")
    assert None not in {first, second}
    assert first != second


def test_several_that_leave_for_one_take_part_in_its_switch(desk: Desk) -> None:
    awake(desk, "a")
    awake(desk, "b")
    ids = {desk.move("a", STOPPING, aim="c"), desk.move("b", DRAINING, aim="c")}
    desk.settle()
    desk.move("a", STOPPED, aim="c")
    desk.settle()
    ids |= {desk.move("b", STOPPING, aim="c"), desk.move("b", STOPPED, aim="c")}
    ids.add(desk.move("c", STARTING))
    desk.settle()

    assert len(ids) == 1
    assert desk.told[0][1:3] == ("a", "c")
    desk.move("c", AWAKE)
    assert desk.told[-1][1:] == ("a", "c", "start", "ok", 3.0)


def test_a_model_that_slept_says_from_where_it_comes(desk: Desk) -> None:
    desk.states["a"] = ASLEEP
    desk.move("a", STARTING, rung=1)
    desk.move("a", FAILED, rung=1)
    desk.move("a", STARTING, rung=1)
    assert [told[3] for told in desk.told] == ["asleep-1", "asleep-1", "start"]


@pytest.mark.parametrize("end", [FAILED, ASLEEP])
def test_one_that_does_not_come_up_has_failed(desk: Desk, end: State) -> None:
    ident = desk.move("a", STARTING)
    assert desk.move("a", end) == ident
    assert desk.told[-1][4] == "failed"
    assert desk.books.waited("a", since=100.0) == ident


def test_a_drain_that_is_called_off(desk: Desk) -> None:
    awake(desk, "a")
    ident = desk.move("a", DRAINING, aim="b")
    desk.settle()
    assert desk.move("a", AWAKE) == ident
    desk.settle()
    assert desk.told[-1][:5] == (ident, "a", "b", "start", "cancelled")


def test_a_load_that_is_called_off_for_another(desk: Desk) -> None:
    first = desk.move("a", STARTING)
    desk.settle()
    second = desk.move("a", STOPPING, aim="b")
    desk.settle()
    assert desk.move("a", STOPPED, aim="b") == second != first
    assert desk.move("b", STARTING) == second
    assert [told[:5] for told in desk.told[1:]] == [
        (first, None, "a", "start", "cancelled"),
        (second, None, "b", "start", None),
    ]


def test_an_unload_leads_to_no_model(desk: Desk) -> None:
    awake(desk, "a")
    ident = desk.move("a", DRAINING)
    desk.settle()
    assert desk.move("a", STOPPING) == ident
    desk.settle()
    assert desk.move("a", STOPPED) == ident
    desk.settle()
    assert desk.told[-1] == (ident, "a", None, "start", "ok", 2.0)


def test_an_unload_after_which_it_starts_again(desk: Desk) -> None:
    awake(desk, "a")
    unload = desk.move("a", STOPPING)
    desk.settle()
    desk.move("a", STOPPED)
    start = desk.move("a", STARTING)
    desk.settle()
    assert start != unload
    assert [(told[0], told[2], told[4]) for told in desk.told] == [
        (unload, None, None),
        (start, "a", None),
        (unload, None, "ok"),
    ]


def test_who_waited_for_a_switch(desk: Desk) -> None:
    assert desk.books.waited("b", since=100.0) is None
    awake(desk, "a")
    ident = desk.move("a", DRAINING, aim="b")
    assert desk.books.waited("b", since=101.0) == ident
    assert desk.books.waited("a", since=101.0) is None, "it came up before that"
    desk.settle()
    desk.move("a", STOPPED, aim="b")
    desk.move("b", STARTING)
    desk.move("b", AWAKE)
    ended = desk.now
    desk.settle()
    assert desk.books.waited("b", since=ended) == ident
    assert desk.books.waited("b", since=ended + 0.1) is None, "it waited for a place only"


def test_a_crash_and_the_start_after_it(desk: Desk) -> None:
    awake(desk, "a")
    assert desk.move("a", FAILED) is None
    assert desk.move("a", STARTING) is not None
    assert desk.told[-1][1:3] == (None, "a")
