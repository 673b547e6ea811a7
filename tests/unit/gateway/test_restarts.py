"""Why engines are started anew."""

from __future__ import annotations

import pytest

from llm_backend.gateway.restarts import Restarts
from llm_backend.switching.feed import Notice

START = ["start", "memory", "memory_done", "launch", "launched", "launch_done"]
UP = ["starting", *START, "start_done", "awake"]
STATES = {"starting", "awake", "draining", "stopping", "stopped", "failed", "asleep"}


def reasons(*told: str) -> list[str]:
    """Return the reasons of all restarts in a row of states and steps."""
    restarts = Restarts()
    notices = [
        Notice("state", {"model": "a", "state": what})
        if what in STATES
        else Notice("step", {"model": "a", "step": what})
        for what in told
    ]
    return [reason for notice in notices if (reason := restarts.reason(notice)) is not None]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (["exited", "failed"], "exited"),
        (["oom", "failed"], "oom"),
        (["hung", "stopping", "stop_done", "failed"], "hung"),
        (["stopping", "sleep_1", "sleep_1_failed", "stop_done", "stopped"], "sleep"),
        (["stopping", "sleep_1_done", "asleep", "starting", "wake_1", "wake_1_canary"], "canary"),
        (["stopping", "sleep_2_done", "asleep", "starting", "wake_2", "wake_2_failed"], "sleep"),
        (["stopping", "sleep_1_done", "asleep", "exited", "failed"], "exited"),
    ],
)
def test_an_engine_that_did_not_end_by_our_will(end: list[str], reason: str) -> None:
    assert reasons(*UP, *end) == []
    assert reasons(*UP, *end, *UP) == [reason]
    assert reasons(*UP, *end, *UP, "stopping", "stop_done", "stopped", *UP) == [reason]


def test_one_that_left_for_another_model_is_no_restart() -> None:
    assert reasons(*UP, "draining", "stopping", "stop", "stop_done", "stopped", *UP) == []


def test_a_start_that_failed() -> None:
    assert reasons("starting", *START, "exited", "failed", *UP) == ["exited"]
    assert reasons("starting", *START, "stop", "stop_done", "failed", *UP) == ["other"]


def test_a_start_that_never_came_to_an_engine_is_no_restart() -> None:
    assert reasons("starting", "start", "memory", "failed", *UP) == []


def test_a_load_that_was_called_off_is_no_restart() -> None:
    assert reasons("starting", *START, "stopping", "stop_done", "stopped", *UP) == []


def test_each_model_by_itself() -> None:
    restarts = Restarts()
    restarts.reason(Notice("step", {"model": "a", "step": "oom"}))
    assert restarts.reason(Notice("step", {"model": "b", "step": "start"})) is None
    assert restarts.reason(Notice("step", {"model": "a", "step": "start"})) == "oom"


def test_other_notices_are_passed_over() -> None:
    restarts = Restarts()
    assert restarts.reason(Notice("step", {"step": "shutting_down"})) is None
    assert restarts.reason(Notice("lease", {"device": "gpu0"})) is None
