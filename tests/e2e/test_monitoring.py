"""Every panel of the dashboards, asked of the Prometheus of a running set-up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.stack import Stack
from tests.harness import eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

RARE = ('status="5xx"', "llm_switch_stage")
"""In queries that may rightly have no answer: errors, and the mean of what has been once."""


@pytest.fixture(scope="module")
def used(stack: Stack) -> Iterator[Stack]:
    """A set-up in which a switch and some requests have been."""
    stack.script("start_all", "--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")
    for model in ("qwen-14b", "qwen-14b", "qwen-coder"):
        assert stack.chat(model, temperature=0).status_code == 200
    yield stack
    stack.script("stop_all")


def panels(stack: Stack) -> list[tuple[str, str]]:
    """Return title and query of each target."""
    folder = stack.root / "monitoring" / "grafana" / "dashboards"
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
        for path in folder.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


def answer(stack: Stack, query: str) -> list[Any]:
    url = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/query"
    answered = httpx2.get(url, params={"query": query}, trust_env=False).json()
    assert answered["status"] == "success", (query, answered)
    found: list[Any] = answered["data"]["result"]
    return found


def test_every_panel_has_data(used: Stack) -> None:
    asked = panels(used)
    assert len(asked) > 25
    for title, query in asked:
        answer(used, query)
        if not any(word in query for word in RARE):
            assert eventually(lambda q=query: answer(used, q)), title


def test_the_awake_engine_alone_is_scraped(used: Stack) -> None:
    def scraped() -> set[str]:
        return {each["metric"]["instance"] for each in answer(used, 'up{job="engines"} == 1')}

    eventually(lambda: scraped() == {"llm-qwen-coder:8002"})
