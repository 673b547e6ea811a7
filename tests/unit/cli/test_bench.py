"""`bench`: its table, its JSON, its exit codes and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import KEY, StandIn, streamed

pytestmark = pytest.mark.feature("model benchmark")

CHAT = ("POST", "/v1/chat/completions")
QUICK = ("--requests", "3", "--concurrency", "2,1")


def models(**vision: bool) -> tuple[int, Any]:
    listed = [
        {"id": name, "aliases": [name[0]], "capabilities": ["chat", "vision"] if able else ["chat"]}
        for name, able in vision.items()
    ]
    return 200, {"object": "list", "data": listed}


@pytest.fixture(autouse=True)
def _answers(gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("Fo", "ur."))
    gateway.answers["GET", "/v1/models"] = models(tiny=False, seeing=True)


def test_a_line_for_each_kind_and_concurrency(command: Command, gateway: StandIn) -> None:
    result = command("bench", "t", *QUICK)
    heading, *rows = result.out.splitlines()

    assert result.code == 0, result.err
    assert heading.split()[:4] == ["PROMPT", "AT", "ONCE", "REQUESTS"]
    cells = [tuple(row.split()[:4]) for row in rows]
    assert cells == [
        ("short", "1", "3", "0"),
        ("short", "2", "3", "0"),
        ("long", "1", "3", "0"),
        ("long", "2", "3", "0"),
    ]
    asked = [request for request in gateway.received if request.path == CHAT[1]]
    # One of each kind loads the model and is not measured.
    assert len(asked) == 2 + 4 * 3
    assert {request.key for request in asked} == {KEY}
    assert {request.body["model"] for request in asked} == {"tiny"}


def test_images_where_the_model_takes_them(command: Command) -> None:
    shown = command("bench", "seeing", *QUICK, "--json").json
    kinds = [line["prompt"] for line in shown["lines"]]

    assert kinds == ["short", "short", "long", "long", "image", "image"]
    assert shown["model"] == "seeing"
    assert shown["lines"][0]["ttft_ms"].keys() == {"p50", "p95", "p99"}
    assert (shown["interrupted"], shown["missed"]) == (False, None)


def test_images_of_a_model_without_are_refused(command: Command) -> None:
    result = command("bench", "tiny", "--prompt", "image")

    assert result.code == 1
    assert "tiny takes no images." in result.err


@pytest.mark.parametrize(("limit", "code"), [("60000", 0), ("0", 1)])
def test_a_promise_that_is_missed_is_exit_1(command: Command, limit: str, code: int) -> None:
    result = command("bench", "tiny", *QUICK, "--prompt", "short", "--assert-ttft-ms", limit)

    assert result.code == code
    assert ("not within 0 ms." in result.err) == (code == 1)


def test_failures_are_told_and_exit_1(command: Command, gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed())
    result = command("bench", "tiny", "--prompt", "short", "--concurrency", "1", "--requests", "2")

    assert result.code == 1
    assert "short, 1 at once: 2 failed: the model answered nothing" in result.err


def test_a_model_that_is_not_there(command: Command) -> None:
    result = command("bench", "nobody")

    assert result.code == 1
    assert "The gateway offers no model 'nobody'; it offers tiny, seeing." in result.err


@pytest.mark.parametrize(
    "text", ["0", "1,x", "", "1,,2", "257", "-1", pytest.param("9" * 5000, id="long")]
)
def test_what_is_no_concurrency(command: Command, text: str) -> None:
    result = command("bench", "tiny", "--concurrency", text)

    assert result.code == 2
    assert "such as 1,2,4,8" in result.err


def test_a_chart_without_a_directory_measures_nothing(
    command: Command, gateway: StandIn, root: Path
) -> None:
    result = command("bench", "tiny", "--chart", str(root / "absent" / "chart.png"))

    assert result.code == 1
    assert "cannot be written: there is no" in result.err
    assert gateway.received == []


def test_a_failure_is_counted_and_not_asked_again(command: Command, gateway: StandIn) -> None:
    gateway.script[CHAT[1]] = [200, 503, 503]
    result = command("bench", "tiny", "--prompt", "short", "--concurrency", "1", "--requests", "4")

    assert result.code == 0
    assert result.out.splitlines()[1].split()[:4] == ["short", "1", "2", "2"]
    assert len([request for request in gateway.received if request.path == CHAT[1]]) == 5


def test_what_was_measured_before_a_failure_is_shown(command: Command, gateway: StandIn) -> None:
    gateway.script[CHAT[1]] = [200, 200, 400]
    options = ("--concurrency", "1", "--requests", "1", "--json")
    result = command("bench", "tiny", *options)

    assert result.code == 1
    assert [line["prompt"] for line in result.json["lines"]] == ["short"]
    assert result.json["failure"] == "It was scripted."


def test_a_chart_without_matplotlib_measures_nothing(
    command: Command, gateway: StandIn, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    result = command("bench", "tiny", "--chart", str(root / "chart.png"))

    assert result.code == 1
    assert "--chart needs matplotlib" in result.err
    assert gateway.received == []
