"""`doctor`: what is there, what is not, and what to type next."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from llm_backend.cli.doctor import verdict
from llm_backend.cli.machine import Offer
from tests.unit.cli.conftest import MODELS, Command, write_catalog
from tests.unit.cli.stand_in import StandIn


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")


def test_every_part_has_a_line(command: Command) -> None:
    result = command("doctor")

    lines = result.out.splitlines()
    named = [line[4:].split(":")[0] for line in lines if line[:4] in {"ok  ", "--  "}]
    assert result.code == 0
    assert named == [
        "python",
        "llama.cpp",
        "docker command",
        "memory",
        "disk",
        "port 0",
        "model hub",
    ]
    assert "--  docker command: the docker command is not installed." in lines
    assert "      Install Docker Engine: https://docs.docker.com/engine/install/" in lines
    assert any(line.startswith("--  model hub: http://127.0.0.1:1 cannot be") for line in lines)


def test_every_model_has_its_verdict(command: Command) -> None:
    text = command("doctor").out

    assert "Set-up: local (compose cannot run here: the docker command is not installed).\n" in text
    assert "  tiny: ready.\n" in text
    assert "  absent: can run here once its weights are: llm-backend download absent\n" in text
    assert "  huge: cannot run here: it needs 16000000 MiB on cpu, which has " in text
    assert text.endswith("\nNext: llm-backend start\n")


def test_without_weights_the_download_is_next(command: Command, root: Path) -> None:
    write_catalog(root, {"absent": MODELS["absent"]})

    assert command("doctor").out.endswith("\nNext: llm-backend download absent\n")


def test_where_nothing_can_run_it_is_an_exit_code(command: Command, root: Path) -> None:
    write_catalog(root, {"boxed": MODELS["boxed"]})

    result = command("doctor")

    assert result.code == 1
    assert "No model can run here." in result.out.splitlines()[-1]


def test_a_port_that_is_taken_is_told_with_its_holder(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("LLM_SERVER__PORT", str(port))

        text = command("doctor").out

    assert f"--  port {port}: taken by " in text
    assert "LLM_SERVER__PORT=7001 llm-backend start" in text


def test_a_running_gateway_has_the_port(command: Command, gateway: StandIn) -> None:
    text = command("doctor").out

    assert f"the gateway (process {os.getpid()}) is at {gateway.url}" in text


def test_a_hub_that_answers_is_fine(
    command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", gateway.url)

    assert f"ok  model hub: {gateway.url} answers\n" in command("doctor").out


def test_compose_that_is_demanded_and_missing_is_the_reason(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SETUP", "compose")

    result = command("doctor")

    assert result.code == 1
    assert "Set-up: compose (The compose set-up cannot run here: the docker command" in result.out
    assert result.out.splitlines()[-1].startswith("No model can run here. Correct the first line")


def test_programs_get_the_same(command: Command) -> None:
    result = command("doctor", "--json").json

    assert [check["name"] for check in result["checks"]][:2] == ["python", "llama.cpp"]
    assert result["setup"] == "local"
    assert {model["id"]: model["ready"] for model in result["models"]} == {
        "tiny": True,
        "absent": False,
        "huge": False,
        "boxed": False,
    }


def test_a_verdict_is_a_sentence() -> None:
    offer = Offer("a", "", 1, ("process",), True, True, True, None)

    assert verdict(offer) == "ready."
