"""What labels can say: only what can come about."""

from __future__ import annotations

from llm_backend.telemetry.vocabulary import OTHER, ModelLabels, Vocabulary

CHAT, SCORE = "/v1/chat/completions", "/score"

WORDS = Vocabulary(
    models=[
        ModelLabels("a", routes={CHAT: True}, devices=["gpu0"], rungs=[1, 2]),
        ModelLabels("b", routes={CHAT: False, SCORE: False}, devices=["gpu0"]),
    ],
    routes=[CHAT, SCORE],
    keys=["alice"],
    stages=["start", "stop"],
)


def test_a_model_serves_its_routes_and_only_some_answers_are_kept() -> None:
    of_a = {series[3:] for series in WORDS.requests() if series[:3] == (CHAT, "a", "alice")}
    of_b = {series[3:] for series in WORDS.requests() if series[:3] == (SCORE, "b", "alice")}
    passed_by = {(status, "bypass") for status in ("2xx", "4xx", "5xx", "gone")}
    missed = {(status, "miss") for status in ("2xx", "4xx", "5xx", "gone")}

    assert of_b == passed_by
    assert of_a == passed_by | missed | {("2xx", "hit"), ("5xx", "hit"), ("gone", "hit")}
    assert not [series for series in WORDS.requests() if series[:2] == (SCORE, "a")]


def test_whoever_finds_no_model_has_no_good_answer() -> None:
    nobody = {(route, *rest) for route, model, *rest in WORDS.requests() if model == OTHER}

    assert nobody == {
        (route, key, status, "bypass")
        for route in (CHAT, SCORE)
        for key in ("alice", OTHER)
        for status in ("4xx", "5xx", "gone")
    }


def test_a_model_comes_up_from_where_it_can_be() -> None:
    assert list(WORDS.ways_up()) == [
        ("a", "start"),
        ("a", "asleep-1"),
        ("a", "asleep-2"),
        ("b", "start"),
    ]
    pairs = {(left, to) for left, to, _, _ in WORDS.switches()}
    assert pairs == {("none", "a"), ("b", "a"), ("none", "b"), ("a", "b")}
    assert {rung for _, to, rung, _ in WORDS.switches() if to == "b"} == {"start"}


def test_only_who_may_sleep_has_stages_of_sleep() -> None:
    nights = ["sleep_1", "wake_1", "sleep_2", "wake_2"]
    assert list(WORDS.all_stages()) == [
        *(("a", stage) for stage in ["start", "stop", *nights]),
        *(("b", stage) for stage in ["start", "stop"]),
    ]
    assert {model for model, _, _ in WORDS.sleep_failures()} == {"a"}
