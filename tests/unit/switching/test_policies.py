"""The policy `fifo` by itself; what it makes of requests is in `test_scheduler.py`."""

from __future__ import annotations

from math import inf

from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.events import Rules
from llm_backend.switching.policies import Fifo
from llm_backend.switching.states import State
from tests.unit.switching.playbook import model


def test_the_oldest_request_leads_whatever_its_key_and_class() -> None:
    a, b = Entry(model("a")), Entry(model("b"))
    b.waiting = {1: Claim(0.0, "many", batch=True), 3: Claim(0.0, "few")}
    a.waiting = {2: Claim(0.0, "few")}
    policy = Fifo({"a": a, "b": b}, [], Rules())

    assert [*policy.line()] == [b, a]
    assert policy.call_up(b) == 1


def test_operators_lead_and_nobody_is_kept() -> None:
    a, b = Entry(model("a"), state=State.AWAKE, leases=1), Entry(model("b"))
    a.waiting = {1: Claim(0.0)}
    policy = Fifo({"a": a, "b": b}, ["b"], Rules())

    assert [*policy.line()] == [b, a]
    assert policy.kept_until(a, b) == -inf
    assert policy.wake_at == inf


def test_whoever_came_before_is_called_up_before() -> None:
    a, b = Entry(model("a")), Entry(model("b"))
    first, second = Claim(1.0, "many"), Claim(2.0, "few")
    a.waiting = {1: first, 2: second}
    policy = Fifo({"a": a, "b": b}, [], Rules())

    assert [policy.ahead(a, c) for c in (first, second, Claim(3.0))] == [0, 1, 2]
    assert policy.breaks_off(second, first)
    assert not policy.breaks_off(first, second)
    assert [policy.is_urgent(e) for e in (a, b)] == [True, False]
