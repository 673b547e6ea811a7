"""The table of states, and the diagram that is drawn from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_backend.switching.states import (
    AT_REST,
    TRANSITIONS,
    IllegalTransition,
    State,
    Trigger,
    mermaid,
    next_state,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "switching.md"


@pytest.mark.parametrize(("state", "trigger"), TRANSITIONS)
def test_every_way_of_the_table_is_open(state: State, trigger: Trigger) -> None:
    assert next_state(state, trigger) is TRANSITIONS[state, trigger]


def test_every_other_way_is_closed() -> None:
    closed = {(s, t) for s in State for t in Trigger} - TRANSITIONS.keys()

    for state, trigger in closed:
        with pytest.raises(IllegalTransition, match=f"{state.value}.*{trigger.value}"):
            next_state(state, trigger)


def test_the_only_way_to_awake_leads_over_an_engine_that_answered() -> None:
    ways = {(old, trigger) for (old, trigger), new in TRANSITIONS.items() if new is State.AWAKE}

    assert ways == {
        (State.STARTING, Trigger.READY),
        (State.STOPPED, Trigger.ADOPT),
        (State.DRAINING, Trigger.KEEP),
    }


@pytest.mark.parametrize("state", sorted(set(State) - AT_REST))
def test_from_everywhere_there_is_a_way_to_rest(state: State) -> None:
    seen, todo = set(), {state}
    while todo:
        seen |= todo
        todo = {new for (old, _), new in TRANSITIONS.items() if old in todo} - seen

    assert seen & AT_REST


def test_the_diagram_shows_every_way_once() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+): (\w+)$", mermaid(), re.MULTILINE)

    assert sorted(arrows) == sorted((s, new, t) for (s, t), new in TRANSITIONS.items())


def test_the_diagram_of_the_documentation_is_current() -> None:
    blocks = re.findall(r"^```mermaid\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

    assert blocks == [mermaid()], f"put this into {PAGE.name}:\n{mermaid()}"
