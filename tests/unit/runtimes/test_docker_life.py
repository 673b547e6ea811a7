"""From a start to its proven exit: what looks and events make of it, in any order."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from llm_backend.runtimes.base import Engine, Exit
from llm_backend.runtimes.docker_life import Life
from llm_backend.runtimes.docker_state import Container, Event, seconds

pytestmark = pytest.mark.anyio

STARTED = "2026-11-21T17:29:30.5Z"
RUNS = Container("abc", "running", STARTED, alive=True, code=0, oom=False, error="")
AGAIN = replace(RUNS, started_at="2026-11-21T17:29:31.5Z")


def ended(code: int, *, oom: bool = False) -> Container:
    return replace(RUNS, status="exited", alive=False, code=code, oom=oom)


def event(action: str, after_s: float, code: int | None = None) -> Event:
    return Event(action, "llm-a", "abc", seconds(STARTED) + after_s, code)


def life(lock: int | None = None) -> Life:
    engine = Engine(f"abc:{STARTED}", "a", "llm-a", 8000, "a", "1", "gpu0", "llm-a")
    return Life(engine, lock)


async def test_it_ends_when_docker_says_so_and_not_before() -> None:
    one = life()
    one.notice(event("die", 1, 3))
    one.compare(RUNS)
    one.compare(replace(RUNS, status="paused"))
    assert not one.ended.done()
    one.compare(ended(3))
    assert one.ended.result() == Exit(3, "exited with status 3")
    one.compare(ended(4))
    assert one.ended.result().code == 3


@pytest.mark.parametrize("now", [None, AGAIN, replace(RUNS, ident="abe")])
async def test_what_docker_forgot_its_events_have_told(now: Container | None) -> None:
    one = life()
    one.notice(event("oom", 1))
    one.notice(event("die", 2, 137))
    one.compare(now)
    assert one.ended.result() == Exit(-9, "killed by SIGKILL: out of memory")


async def test_nobody_saw_it() -> None:
    one = life()
    one.compare(None)
    assert one.ended.result() == Exit(None, "ended, and nobody saw how")


async def test_events_of_an_earlier_run_say_nothing_about_this_one() -> None:
    one = life()
    one.notice(event("oom", -1))
    one.notice(event("die", -0.5, 137))
    one.compare(ended(1))
    assert one.ended.result() == Exit(1, "exited with status 1")


async def test_a_flag_of_an_earlier_run_does_not_explain_a_plain_exit() -> None:
    one = life()
    one.compare(ended(1, oom=True))
    assert one.ended.result() == Exit(1, "exited with status 1")


async def test_its_lock_goes_with_it() -> None:
    lock = os.open(os.devnull, os.O_RDONLY)
    one = life(lock)
    one.compare(ended(0))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)
    one.close()


async def test_who_waits_is_let_go() -> None:
    one = life()
    one.close()
    assert one.ended.cancelled()
    one.compare(ended(0))
