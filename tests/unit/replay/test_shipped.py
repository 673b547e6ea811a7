"""The traces that come with the product are what they are said to be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llm_backend.errors import SetupError
from llm_backend.replay.generator import random_trace
from llm_backend.replay.profile import load_profile
from llm_backend.replay.shipped import SHIPPED, shipped_trace
from llm_backend.replay.trace import Trace

MODELS = ("qwen-vl", "qwen-14b", "qwen-coder")


def found(name: str) -> Trace:
    trace = shipped_trace(name)
    assert trace is not None
    return trace


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_the_same_every_time_and_the_profile_knows_its_models(name: str) -> None:
    trace = found(name)

    assert trace == found(name)
    assert trace.name == name
    assert trace.arrivals[0].at_s == 0
    load_profile("rtx5080-awq").require(trace.models)


def test_ping_pong_has_a_client_a_model() -> None:
    assert {(a.client, a.model) for a in found("ping-pong").arrivals} == {
        ("captions", "qwen-vl"),
        ("completions", "qwen-coder"),
    }


def test_an_agent_has_its_titles_from_a_smaller_model() -> None:
    chat = [a.model for a in found("agent").arrivals if a.client == "chat-0"]

    assert chat[:3] == ["qwen-14b", "qwen-coder", "qwen-14b"]


def test_the_teams_have_favourites() -> None:
    arrivals = found("three-teams").arrivals

    for key in ("research", "software", "design"):
        models = [a.model for a in arrivals if a.key == key]
        assert max(models.count(m) for m in MODELS) > 0.8 * len(models)


def test_at_night_only_the_batch_is_one() -> None:
    assert {(a.key, a.batch) for a in found("nightly-batch").arrivals} == {
        ("nightly", True),
        ("ada", False),
        ("grace", False),
    }


def test_most_of_a_burst_comes_within_half_a_minute() -> None:
    times = [a.at_s for a in found("burst").arrivals]
    ahead = times[240:]

    assert min(b - a for a, b in zip(times, ahead, strict=False)) < 40
    assert all(a <= b for a, b in pairwise(times))


def test_a_random_one_is_asked_for_by_its_seed() -> None:
    assert found("random:17") == random_trace(17, MODELS)
    with pytest.raises(SetupError, match="'x' is no whole number"):
        shipped_trace("random:x")


def test_others_are_no_shipped_ones() -> None:
    assert shipped_trace("recorded.jsonl") is None
    assert shipped_trace("random") is None
