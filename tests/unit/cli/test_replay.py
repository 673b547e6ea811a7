"""`replay`: figures and pictures of a trace, for people and for programs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from llm_backend.cli.replay import Policy, complete_trace, conditions, find_trace
from llm_backend.config.settings import LimitSettings, Settings, SwitchingSettings
from llm_backend.core import rules_of
from llm_backend.replay.shipped import shipped_trace
from llm_backend.replay.trace import to_line
from tests.unit.cli.conftest import Command


def test_people_get_a_column_bars_and_a_strip_a_policy(command: Command) -> None:
    result = command("replay", "agent", "--policy", "fifo")
    lines = result.out.splitlines()
    table = dict(re.split(r"  +", line.strip()) for line in lines[4:13])

    assert (result.code, result.err) == (0, "")
    assert lines[0] == "agent: 72 requests for qwen-14b, qwen-coder"
    assert lines[1].startswith("rtx5080-awq, estimated: RTX 5080, 16 GB")
    assert lines[3].split() == ["fifo"]
    assert (table["switches"], table["served"]) == ("18", "72 of 72")
    assert table["interactive wait"] == "p50 62 s, p95 118 s, max 120 s"
    assert table["batch wait"] == "-"
    assert table["device serving"] == "8%"
    assert table["all took"] == "20 min"
    assert lines[lines.index("Switches") + 1] == f"  fifo  {'█' * 40} 18"
    assert "Interactive wait, p95" in lines
    assert len(lines[-1].split()[1]) == 72
    assert set(lines[-1].split()[1]) <= set("AaBb·")


def test_without_a_policy_all_are_compared(command: Command) -> None:
    results = command("replay", "agent", "--json").json["results"]

    assert [result["policy"] for result in results] == ["fifo", "fair"]


def test_programs_get_every_figure(command: Command) -> None:
    told = command("replay", "nightly-batch", "--policy", "fifo", "--json", "--seed", "3").json
    (result,) = told["results"]

    assert (told["trace"], told["requests"], told["seed"]) == ("nightly-batch", 1020, 3)
    assert told["profile"]["basis"] == "estimated"
    assert result["ends"]["served"] == 1020
    assert result["interactive"]["count"] == 60
    assert result["batch"]["count"] == 960
    assert set(result["keys"]) == {"nightly", "ada", "grace"}
    assert sum(result["use"].values()) == pytest.approx(1, abs=0.01)
    assert result["interactive"]["p95_s"] == round(result["interactive"]["p95_s"], 3)


def test_a_seed_decides(command: Command) -> None:
    def told(seed: str) -> str:
        return command("replay", "agent", "--policy", "fifo", "--json", "--seed", seed).out

    assert told("1") == told("1") != told("2")


def test_a_recorded_file_and_a_profile_of_ones_own(command: Command, tmp_path: Path) -> None:
    agent = shipped_trace("agent")
    assert agent is not None
    recorded, profile = tmp_path / "day.jsonl", tmp_path / "mine.json"
    recorded.write_bytes(b"".join(map(to_line, agent.arrivals)))
    profile.write_text(PROFILE)
    arguments = (str(recorded), "--policy", "fifo", "--profile", str(profile))
    told = command("replay", *arguments, "--json").json

    assert (told["trace"], told["requests"]) == ("day.jsonl", 72)
    assert told["profile"]["name"] == "mine"
    assert told["results"][0]["interactive"]["max_s"] > 0


PROFILE = """{
  "name": "mine", "about": "This machine.", "basis": "measured", "sources": [],
  "models": {
    "qwen-14b": {
      "start_s": 4, "stop_s": 1,
      "prompt_tokens_per_s": 900, "tokens_per_s": 20, "tokens_per_s_at_most": 40
    },
    "qwen-coder": {
      "start_s": 2, "stop_s": 1,
      "prompt_tokens_per_s": 900, "tokens_per_s": 30, "tokens_per_s_at_most": 60
    }
  }
}"""


def test_the_drawing_is_written(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "agent.svg"

    assert command("replay", "agent", "--policy", "fifo", "--svg", str(path)).code == 0
    assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314  # our own


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("agnt",), 1, "There is no trace 'agnt', neither with the product nor as a file."),
        (("random:x",), 1, "The seed 'x' is no whole number."),
        (("agent", "--profile", "4090"), 1, "There is no profile '4090'"),
        (("agent", "--svg", "no/where.svg"), 1, "no/where.svg cannot be written: No such file"),
        (("agent", "--policy", "lifo"), 2, "'lifo' is not one of 'fifo', 'fair'"),
        ((), 2, "Missing argument 'TRACE'"),
    ],
)
def test_what_is_wrong_is_said(
    command: Command, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = command("replay", *arguments)

    assert result.code == code
    assert told in result.err


def test_the_next_command_is_named(command: Command) -> None:
    assert "There are ping-pong, agent, three-teams" in command("replay", "x").err
    assert "llm-backend replay random:1" in command("replay", "x").err


def test_the_settings_of_the_checkout_hold_but_not_a_manual_mode() -> None:
    settings = Settings(
        limits=LimitSettings(queue=7, queue_timeout_s=8),
        switching=SwitchingSettings(mode="manual", drain_timeout_s=9),
    )
    made = conditions(settings, Policy.FIFO, seed=2)

    assert (made.queue_timeout_s, made.seed) == (8, 2)
    assert (made.rules.mode, made.rules.policy) == ("auto", "fifo")
    assert (made.rules.queue_limit, made.rules.drain_s) == (7, 9)
    assert rules_of(settings, {}).mode == "manual"


def test_shipped_traces_are_completed_and_found() -> None:
    assert list(complete_trace("p")) == ["ping-pong"]
    assert find_trace("burst").name == "burst"
