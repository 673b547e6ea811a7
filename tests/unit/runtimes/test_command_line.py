"""Command lines with their ports filled in, and ports that are taken."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from llm_backend.engines.base import Helper, LaunchPlan
from llm_backend.runtimes.command_line import command_line, environment, taken
from llm_backend.runtimes.ports import free_port
from llm_backend.runtimes.records import EngineRecord

WHY = Path("/state/a.why")


def record(*helpers: tuple[str, int]) -> EngineRecord:
    return EngineRecord("1f", "a", "cpu", "f", "127.0.0.1", 7, "a", 5, helpers)


def test_an_engine_alone_is_executed_as_it_is() -> None:
    plan = LaunchPlan("a", "cpu", "a", argv=("serve", "--port={port}", '{"port": {port}}'))

    assert command_line(plan, record(), WHY) == ["serve", "--port=7", '{"port": 7}']


def test_helpers_and_engine_know_each_other_s_ports() -> None:
    tokenizer = Helper("tok", ("tok", "{port}"), ready_path="/ok", env={"A": "1"}, cwd="/srv")
    second = Helper("npu.0", ("npu", "{port}", "{tok.port}"), port=9, start_s=3)
    plan = LaunchPlan(
        "a",
        "cpu",
        "a",
        argv=("main", "{port}", "{tok.port}", "{npu.0.port}"),
        helpers=(tokenizer, second),
    )

    *program, text = command_line(plan, record(("tok", 8), ("npu.0", 9)), WHY)

    assert program[1:3] == ["-I", "-S"]
    spec = json.loads(text)
    assert (spec["instance"], spec["why_path"], spec["stop_s"]) == ("1f", str(WHY), 20)
    first, other, main = spec["members"]
    assert first == {
        "name": "tok",
        "argv": ["tok", "8"],
        "cwd": "/srv",
        "host": "127.0.0.1",
        "port": 8,
        "ready_path": "/ok",
        "start_s": 60,
    }
    assert (other["argv"], other["start_s"]) == (["npu", "9", "8"], 3)
    # A command line is there for all to read: what may be a secret is not in it.
    assert json.loads(environment(plan)["LLM_BACKEND_HELPERS"]) == {"tok": {"A": "1"}}
    assert (main["name"], main["argv"]) == (None, ["main", "7", "8", "9"])


def test_a_taken_port_is_told_with_its_holder() -> None:
    free, held = free_port("127.0.0.1"), free_port("127.0.0.1")
    helpers = (Helper("any", ("x",)), Helper("tok", ("x",), port=held))
    plan = LaunchPlan("a", "cpu", "a", port=free, helpers=helpers)
    with socket.create_server(("127.0.0.1", held)):
        reason = taken(plan)

    assert reason is not None
    assert reason.startswith(f"the port {held} of its helper tok is taken by ")
    assert reason.endswith(f"(pid {os.getpid()})")
    assert taken(plan) is None


def test_only_ports_that_are_fixed_count() -> None:
    plan = LaunchPlan("a", "cpu", "a", port=0, helpers=(Helper("h", ("x",), port=0),))

    assert taken(plan) is None
