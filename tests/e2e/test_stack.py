"""From nothing to three models and back, by the scripts, in real containers."""

from __future__ import annotations

import socket

import httpx2
import pytest

from tests.e2e.events import EventLog
from tests.e2e.pictures import with_image
from tests.e2e.stack import ENGINES, PROJECT, Stack, docker
from tests.harness import eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.feature("compose set-up")]


def text_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def series(stack: Stack, query: str) -> list[dict[str, str]]:
    """Return the labels of the series that Prometheus has for a query."""
    url = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/query"
    found = httpx2.get(url, params={"query": query}, trust_env=False).json()["data"]["result"]
    return [each["metric"] for each in found if each["value"][1] != "0"]


def is_free(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_from_nothing_to_three_models_and_back(stack: Stack, event_log: EventLog) -> None:
    started = stack.script(
        "start_all", "--setup", "compose", "--model", "qwen-coder", "--yes", "--detach"
    )
    assert stack.url in started.stdout
    # The fake engine's answers begin with the name of the model that gives them.
    assert text_of(stack.chat("qwen-coder")).startswith("qwen-coder")
    assert stack.running_engines() == ["llm-qwen-coder"]

    assert text_of(stack.chat("qwen-14b")).startswith("qwen-14b")
    assert stack.running_engines() == ["llm-qwen-14b"]

    stack.script("switch_model", "qwen-vl")
    assert text_of(stack.chat("qwen-vl", with_image("What is this?"))).startswith("qwen-vl")
    assert stack.running_engines() == ["llm-qwen-vl"]
    assert [e["event"] for e in stack.journal("qwen-vl")].count("start") == 1

    health = stack.script("health_check")
    assert "qwen-vl" in health.stdout
    assert "TORCH_SDPA" in health.stdout
    assert "Application startup complete" in stack.script("logs", "qwen-vl").stdout

    assert is_scraped(stack)

    stack.script("stop_all")
    assert stack.containers() == []
    label = f"label=com.docker.compose.project={PROJECT}"
    assert docker("network", "ls", "--quiet", "--filter", label).stdout == ""
    assert [port for port in stack.ports.values() if not is_free(port)] == []
    assert event_log.most_at_once() == 1
    ended = [e.name for e in event_log.events if e.action == "die" and e.name in ENGINES.values()]
    assert ended == ["llm-qwen-coder", "llm-qwen-14b", "llm-qwen-vl"]
    # Nothing to do is no error.
    stack.script("stop_all")


def is_scraped(stack: Stack) -> bool:
    """Whether Prometheus gets the gateway, and of the engines the one that runs."""

    def only_the_running_engine() -> bool:
        up = series(stack, "up")
        models = {labels["model"] for labels in up if "model" in labels}
        return models == {"qwen-vl"} and len(up) > 1

    return bool(eventually(only_the_running_engine))


def test_a_second_start_changes_nothing_and_a_plain_up_starts_no_engine(stack: Stack) -> None:
    options = ("--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")
    stack.script("start_all", *options)
    before = stack.compose("ps", "--all", "--no-trunc", "--quiet").stdout
    again = stack.script("start_all", *options)
    assert again.stdout.startswith("It runs already")
    assert stack.compose("ps", "--all", "--no-trunc", "--quiet").stdout == before
    assert stack.running_engines() == ["llm-qwen-14b"]
    stack.script("stop_all")

    # What people type who know Compose.
    stack.compose("up", "--detach", "--wait")
    assert stack.get("/health/ready").status_code == 200
    assert stack.running_engines() == []
    stack.script("stop_all")
    assert stack.containers() == []
