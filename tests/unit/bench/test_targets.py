from __future__ import annotations

import pytest

from bench.scenarios import SCENARIOS
from bench.targets import Target, clean_environment


def taken(target: Target) -> set[str]:
    return {s.name for s in SCENARIOS if target.takes(s)}


def test_a_peer_takes_what_is_not_about_our_cache() -> None:
    assert taken(Target("peer", "1", 1)) == {s.name for s in SCENARIOS if s.measures == "any"}


def test_a_target_that_few_streams_saturate_takes_few() -> None:
    streams = {n for n in taken(Target("slow", "1", 1, most_streams=4)) if n.startswith("stream")}

    assert streams == {"stream-4"}


def test_our_gateway_takes_the_cache_in_memory_and_the_other_one_that_in_redis() -> None:
    assert taken(Target("ours", "1", 1, kind="ours")) >= {"request-64", "cache-memory"}
    assert taken(Target("ours-redis", "1", 1, kind="redis")) == {"cache-redis"}


@pytest.mark.parametrize("name", ["LLM_SERVER__PORT", "PYTHONUNBUFFERED"])
def test_nothing_of_the_environment_changes_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")

    environment = clean_environment(LLM_BACKEND_ROOT="/x")
    assert name not in environment
    assert environment["LLM_BACKEND_ROOT"] == "/x"
