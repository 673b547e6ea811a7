"""`switch`: progress while it waits, and every refusal."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from llm_backend.cli import switch as module
from llm_backend.cli.project import Project
from llm_backend.cli.switch import MARGIN_S, NEARLY, LoadBar, switch_deadline_s
from tests.unit.cli.conftest import MODELS, Command, write_catalog
from tests.unit.cli.stand_in import STATUS, StandIn, write_record

EVENTS = [
    ("snapshot", {"model": None}),
    ("state", {"model": "other", "state": "draining", "previous": "awake"}),
    ("step", {"model": "other", "step": "stop", "elapsed_s": 0.0}),
    ("step", {"model": "other", "step": "stop_done", "elapsed_s": 0.4}),
    ("step", {"model": "tiny", "step": "memory", "elapsed_s": 0.0}),
    ("step", {"model": "tiny", "step": "load", "elapsed_s": 0.0}),
    ("progress", {"model": "other", "text": "not this one", "fraction": 1.0}),
    ("progress", {"model": "tiny", "text": "loading weights (2/4)", "fraction": 0.5}),
    ("progress", {"model": "tiny", "text": "warming up", "fraction": None}),
]


def test_it_shows_every_step_and_then_that_it_is_awake(command: Command, gateway: StandIn) -> None:
    gateway.events = EVENTS
    gateway.hold.clear()
    # The load is answered once the events have been read.
    threading.Thread(target=lambda: gateway.told.wait(30) and gateway.hold.set()).start()

    result = command("switch", "t")

    assert (result.code, result.out) == (0, "tiny is awake (1.2 s).\n")
    assert gateway.received[-1].body == {"model": "tiny"}
    assert result.err.splitlines() == [
        "tiny: waiting for the gateway",
        "tiny: letting other finish what it works on",
        "tiny: ending other",
        "tiny: waiting for free memory",
        "tiny: loading",
        "tiny: loading weights (2/4) (50%)",
        "tiny: warming up",
    ]


def test_programs_get_the_answer_of_the_gateway(command: Command, gateway: StandIn) -> None:
    result = command("switch", "tiny", "--json")

    assert result.json == {"model": "tiny", "state": "awake", "seconds": 1.25}


def test_events_that_make_no_sense_cost_the_progress_only(
    command: Command, gateway: StandIn
) -> None:
    gateway.answers["GET", "/events"] = (200, "nonsense")
    gateway.events = [("progress", "nonsense")]

    assert command("switch", "tiny").code == 0


def test_a_load_that_fails_is_told_in_the_gateways_words(
    command: Command, gateway: StandIn
) -> None:
    message = "The engine of tiny exited with status 3 before it was ready."
    gateway.refuse("POST", "/api/v1/inference/load", 503, "engine_start_failed", message)

    result = command("switch", "tiny")

    assert result.code == 1
    assert f"Error: {message}\n" in result.err


def test_a_model_whose_weights_are_not_here_never_ends_another_one(
    command: Command, gateway: StandIn
) -> None:
    result = command("switch", "absent")

    assert result.code == 1
    assert result.err == (
        "Error: The weights of absent are not here.\nType: llm-backend download absent\n"
    )
    assert "/api/v1/inference/load" not in {request.path for request in gateway.received}


def test_a_model_that_cannot_run_here_is_refused_with_the_reason(
    command: Command, gateway: StandIn
) -> None:
    result = command("switch", "boxed")

    assert result.code == 1
    assert result.err == (
        "Error: boxed cannot run here: it runs on docker, which the set-up local does not have.\n"
        "What can: llm-backend models\n"
    )


def test_without_a_terminal_a_model_has_to_be_named(command: Command, gateway: StandIn) -> None:
    result = command("switch")

    assert result.code == 1
    assert result.err == (
        "Error: No model is named, and nobody is there to ask.\n"
        "Type one of these: llm-backend switch {tiny|absent|huge|boxed}\n"
    )


def test_without_a_gateway_start_comes_first(command: Command) -> None:
    result = command("switch", "tiny")

    assert result.code == 69
    assert result.err == "Error: The gateway does not run.\nType: llm-backend start\n"


def test_a_gateway_that_does_not_answer_is_told(command: Command, project: Project) -> None:
    write_record(project.state_dir)

    result = command("switch", "tiny")

    assert result.code == 69
    assert "does not answer at http://127.0.0.1:1" in result.err
    assert "See why: llm-backend logs gateway" in result.err


def test_the_deadline_has_room_for_every_step(root: Path, project: Project) -> None:
    times = {"start_s": 100, "stop_s": 10, "memory_s": 20}
    write_catalog(root, {"slow": MODELS["tiny"] | {"timeouts": times}})

    deadline_s = switch_deadline_s(project.settings, project.model("slow"))

    assert deadline_s == project.settings.limits.request_timeout_s + 130 + MARGIN_S


# The bar


def test_the_bar_moves_by_the_estimate_of_the_gateway(
    command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.01)
    gateway.events = [("step", {"model": "tiny", "step": "load", "elapsed_s": 0.0})]
    switch = {"to": "tiny", "step": "load", "elapsed_s": 1.0, "estimate_s": 0.001}
    gateway.answers["GET", "/status"] = (200, {**STATUS, "switch": switch})
    gateway.hold.clear()
    threading.Timer(1.0, gateway.hold.set).start()

    result = command("switch", "tiny")

    assert result.code == 0
    assert re.fullmatch(r"tiny: loading \(9\d%\)", result.err.splitlines()[-1])


def test_a_bar_shows_what_is_over_of_the_time_else_what_the_engine_says() -> None:
    shown: list[tuple[str, float | None]] = []

    def report(text: str, fraction: float | None = None, detail: str = "") -> None:
        shown.append((text, fraction))

    bar = LoadBar(report)

    bar.say("loading")
    bar.say("weights", 0.5)
    bar.pace(2.0, 8.0)
    bar.say("warming up")
    bar.pace(3.0, 27.0)
    bar.pace(100.0, 0.0)

    assert shown == [
        ("loading", None),
        ("weights", 0.5),
        ("weights", 0.2),
        ("warming up", 0.2),
        ("warming up", 0.2),
        ("warming up", NEARLY),
    ]
