"""`top`, told once: what people and programs read, and what goes wrong."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import HEALTH, STATUS, StandIn

HISTORY = {"covers_s": 1.0, "held": [], "switches": []}
METRICS = 'llm_requests_total{cache="miss",model="tiny"} 3.0\n'


@pytest.fixture
def gateway(gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    gateway.answers["GET", "/api/v1/history"] = (200, HISTORY)
    gateway.answers["GET", "/metrics"] = (200, METRICS)
    monkeypatch.setattr("llm_backend.cli.top.PACE_S", 0.01)
    return gateway


def test_people_read_it_once(command: Command, gateway: StandIn) -> None:
    result = command("top")
    lines = result.out.splitlines()

    assert (result.code, result.err) == (0, "")
    assert lines[0] == f"llm-backend 0.1.0, {gateway.url}, local, up 75 s, ok"
    assert lines[2].startswith("cpu  ████")
    assert lines[3].strip() == "used 15.5 GiB, free 512 MiB of 16.0 GiB"
    assert [line.split()[:4] for line in lines[6:8]] == [
        ["tiny", "awake", "2", "-"],
        ["boxed", "not", "here", "-"],
    ]


def test_programs_read_one_object(command: Command, gateway: StandIn) -> None:
    told = json.loads(command("top", "--json").out)
    assert told == {
        "running": True,
        "url": gateway.url,
        "health": HEALTH,
        "status": STATUS,
        "history": HISTORY,
        "rates": {"tiny": {"requests": 0.0, "tokens": 0.0}},
    }


@pytest.mark.parametrize("arguments", [(), ("--once",), ("--json",)])
def test_an_error_of_the_gateway_is_told(
    command: Command, gateway: StandIn, arguments: tuple[str, ...]
) -> None:
    error = {"error": {"message": "Not now.", "type": "x", "param": None, "code": "shutting_down"}}
    gateway.answers["GET", "/status"] = (503, error)
    result = command("top", *arguments)
    assert result.code == 1
    assert "Not now." in result.out + result.err


def test_where_none_runs(command: Command) -> None:
    result = command("top", "--once")
    assert result.code == 69
    assert "Error: The gateway does not run." in result.err
