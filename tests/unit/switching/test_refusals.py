"""What a client reads when the scheduler refuses it: the offending thing, and what to do."""

from __future__ import annotations

from llm_backend.switching.refusals import (
    not_active,
    not_awake,
    pinned,
    queue_full,
    switched_away,
)


def test_a_full_line_says_when_to_come_back() -> None:
    error = queue_full(512, 11.5)
    assert error.text == "512 requests wait already; the queue holds no more."
    assert (error.status, error.retry_after_s, error.should_retry) == (503, 12.5, True)


def test_manual_switching_names_the_command() -> None:
    error = not_active("qwen-14b")
    assert error.hint == "Switch first: bash scripts/switch_model.sh qwen-14b"
    assert (error.status, error.param, error.should_retry) == (409, "model", False)


def test_a_cut_request_learns_which_limit_it_met() -> None:
    error = switched_away("qwen-vl", 300)
    assert error.message.startswith("qwen-vl was switched away")
    assert "300 s" in error.message
    assert "switching.drain_timeout_s" in str(error.hint)


def test_who_may_not_switch_and_who_meets_a_pinned_model_learn_the_command() -> None:
    for error in (not_awake("qwen-vl"), pinned("qwen-vl", by="qwen-14b")):
        assert error.hint == "Switch first: bash scripts/switch_model.sh qwen-vl"
        assert (error.status, error.should_retry) == (409, False)
    assert "qwen-14b is pinned" in error.message
