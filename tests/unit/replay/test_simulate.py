"""The simulation does what engines and clients do, to the second."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_backend.errors import SetupError
from llm_backend.replay.generator import random_trace
from llm_backend.replay.result import Span, Waits
from llm_backend.replay.shipped import shipped_trace
from llm_backend.replay.simulate import Conditions, simulate
from llm_backend.switching.events import Rules
from tests.unit.replay.bench import profile, run, trace


def test_a_request_waits_for_the_start_reads_and_writes() -> None:
    result = run({"at_s": 0, "model": "a", "prompt_tokens": 100, "completion_tokens": 100})

    assert result.interactive == Waits(1, 10, 10, 10)
    assert result.seconds == 10 + 1 + 2
    assert (result.loads, result.switches) == (1, 0)
    assert result.spans == (Span("a", 10, 13),)
    assert result.ends["served"] == result.requests == 1


def test_another_model_waits_for_the_answer_the_stop_and_the_start() -> None:
    result = run({"at_s": 0, "model": "a"}, {"at_s": 10.5, "model": "b"})

    assert result.interactive.max_s == pytest.approx(0.5 + 2 + 10)
    assert (result.loads, result.switches) == (2, 1)
    assert result.spans == (Span("a", 10, 11), Span("b", 23, 24))
    assert result.use.serving == pytest.approx(2 / 24)
    assert result.use.switching == pytest.approx(22 / 24)


def test_answers_share_the_engine_and_the_third_waits_for_a_seat() -> None:
    result = run(*[{"at_s": 0, "model": "a"}] * 3)

    # The first has the engine to itself, the second half of it from then on.
    assert result.interactive == Waits(3, 10, 11, 11)
    assert result.seconds == 13


def test_the_next_request_of_a_client_comes_after_its_answer() -> None:
    mine = {"at_s": 0, "model": "a", "client": "me"}
    result = run(mine, {**mine, "think_s": 5.0}, {**mine, "at_s": 60.0, "think_s": 5.0})

    assert result.interactive == Waits(3, 0, 10, 10)
    assert result.seconds == 61
    assert result.use.idle == pytest.approx((5 + 60 - 17) / 61)


def test_a_client_goes_on_after_a_refusal() -> None:
    mine = {"at_s": 0, "model": "a", "client": "me", "patience_s": 4.0}
    result = run(mine, {**mine, "think_s": 7.0}, {**mine, "think_s": 7.0})

    assert result.ends == {"served": 2, "refused": 0, "timed_out": 0, "left": 1, "cut": 0}
    assert result.interactive.max_s == 4


def test_nobody_waits_beyond_the_timeout_of_the_queue_a_batch_a_bit_longer() -> None:
    rules = Rules(policy="fifo", batch_max_wait_s=2)
    one = {"at_s": 0, "model": "a"}
    both = trace(one, {**one, "batch": True})

    for timeout_s, ends, longest in ((6, (0, 2), (6, 8)), (9, (1, 1), (9, 10))):
        result = simulate(both, profile(), Conditions(rules, queue_timeout_s=timeout_s))
        assert (result.ends["served"], result.ends["timed_out"]) == ends
        assert (result.interactive.max_s, result.batch.max_s) == longest


def test_who_has_no_patience_leaves_at_once() -> None:
    result = run({"at_s": 0, "model": "a", "patience_s": 0.0})

    assert (result.ends["left"], result.seconds) == (1, 0)


def test_a_full_queue_refuses_at_once() -> None:
    result = run(*[{"at_s": 0, "model": "a"}] * 3, queue_limit=2)

    assert (result.ends["refused"], result.ends["served"]) == (1, 2)
    assert result.interactive.count == 2


def test_a_drain_that_takes_too_long_cuts() -> None:
    long = {"at_s": 0, "model": "a", "completion_tokens": 5000}
    result = run(long, {"at_s": 20, "model": "b"}, drain_s=30)

    assert (result.ends["cut"], result.ends["served"]) == (1, 1)
    assert result.spans[0] == Span("a", 10, 50)
    assert result.interactive.max_s == 30 + 2 + 10


def test_keys_and_classes_are_told_apart() -> None:
    result = run(
        {"at_s": 0, "model": "a", "key": "x"},
        {"at_s": 20, "model": "a", "key": "y"},
        {"at_s": 30, "model": "b", "key": "y", "batch": True},
    )

    assert result.keys == {"x": Waits(1, 10, 10, 10), "y": Waits(2, 0, 12, 12)}
    assert (result.interactive.count, result.batch) == (2, Waits(1, 12, 12, 12))


def test_the_wait_that_was_expected_is_compared_with_the_real_one() -> None:
    turns = [{"at_s": 100.0 * n, "model": "ab"[n % 2]} for n in range(20)]

    # The first start of each is guessed, 30 s of 10; from then on the measured times hold.
    assert run(*turns).estimate_error == pytest.approx(0.0)
    assert run(*turns[:2]).estimate_error == pytest.approx((20 / 10 + 19 / 12) / 2)


def test_a_seed_decides_everything() -> None:
    asked = random_trace(5, ("a", "b"))
    uneven = profile(spread=0.5)
    first, again, other = (
        simulate(asked, uneven, Conditions(Rules(policy="fifo"), seed=seed)) for seed in (1, 1, 2)
    )

    assert first == again
    assert first.interactive != other.interactive


@pytest.mark.parametrize("policy", ["fifo", "fair"])
def test_the_nth_start_takes_equally_long_under_every_policy(policy: str) -> None:
    turns = [{"at_s": 100.0 * n, "model": "ab"[n % 2]} for n in range(4)]
    uneven = profile(spread=0.5)

    spans, fifo = (run(*turns, machine=uneven, policy=p).spans for p in (policy, "fifo"))

    assert [s.begin for s in spans] == [s.begin for s in fifo]


@pytest.mark.parametrize("seed", range(20))
def test_everybody_ends_and_the_time_is_accounted_for(seed: int) -> None:
    asked = random_trace(seed, ("a", "b"))
    result = simulate(asked, profile(), Conditions(Rules(policy="fifo")))

    assert sum(result.ends.values()) == result.requests == len(asked.arrivals)
    assert sum((result.use.serving, result.use.switching, result.use.idle)) == pytest.approx(1)
    assert sum(keys.count for keys in result.keys.values()) == (
        result.interactive.count + result.batch.count
    )


def test_ten_thousand_requests() -> None:
    asked = random_trace(1, ("a", "b"), requests=10_000)
    result = simulate(asked, profile(), Conditions(Rules(policy="fifo")))

    assert sum(result.ends.values()) == result.requests > 9_000


def test_a_model_without_costs_is_named() -> None:
    asked = shipped_trace("burst")
    assert asked is not None

    with pytest.raises(SetupError, match="profile round has no costs for 'qwen-"):
        simulate(asked, profile(), Conditions())


def test_an_unwanted_load_may_be_called_off() -> None:
    hasty = {"at_s": 0, "model": "a", "patience_s": 1.0}
    rules = Rules(policy="fifo", unwanted_load="cancel")
    later = {"at_s": 20, "model": "a"}
    result = simulate(trace(hasty, later), profile(), Conditions(rules))

    assert result.loads == 2
    assert result.interactive.max_s == 10
    finished = simulate(
        trace(hasty, later), profile(), Conditions(replace(rules, unwanted_load="finish"))
    )
    assert finished.loads == 1
