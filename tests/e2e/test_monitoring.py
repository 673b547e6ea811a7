"""The Prometheus of a running set-up: rules, targets, and every query of the dashboards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests import watching
from tests.e2e.stack import Stack
from tests.harness import eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WINDOWS = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m"}


@pytest.fixture(scope="module")
def used(stack: Stack) -> Iterator[Stack]:
    """A set-up in which a switch and some requests have been."""
    stack.script("start_all", "--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")
    for model in ("qwen-14b", "qwen-14b", "qwen-coder"):
        assert stack.chat(model, temperature=0).status_code == 200
    yield stack
    stack.script("stop_all")


def get(stack: Stack, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/{path}"
    answered = httpx2.get(url, params=parameters, trust_env=False).json()
    assert answered["status"] == "success", (parameters, answered)
    return answered["data"]


def answer(stack: Stack, query: str) -> list[Any]:
    found: list[Any] = get(stack, "query", query=query)["result"]
    return found


def test_every_query_is_taken_and_the_engine_answers_its_own(used: Stack) -> None:
    """With a fault for everything that can be seen: tests/integration/test_prometheus.py."""
    queries = watching.board_queries(WINDOWS)
    left = [q for q in queries if "vllm:" in q.expr and q.place not in watching.QUIET]
    for query in queries:
        answer(used, query.expr)

    def all_answered() -> bool:
        assert used.chat("qwen-coder").status_code == 200
        left[:] = [query for query in left if not answer(used, query.expr)]
        return not left

    eventually(all_answered, every_s=1)


def test_the_rules_are_loaded_and_nothing_fires(used: Stack) -> None:
    rules = [rule for group in get(used, "rules")["groups"] for rule in group["rules"]]

    assert {r["name"] for r in rules} == {query.place for query in watching.rule_queries()}
    assert eventually(lambda: answer(used, "llm:requests:rate5m"))
    assert [alert for alert in get(used, "alerts")["alerts"] if alert["state"] == "firing"] == []


def test_the_awake_engine_alone_is_scraped(used: Stack) -> None:
    def scraped() -> set[str]:
        return {each["metric"]["instance"] for each in answer(used, 'up{job="engines"} == 1')}

    eventually(lambda: scraped() == {"llm-qwen-coder:8002"})
