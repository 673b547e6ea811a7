"""`models`: the table, and why some of it cannot run here."""

from __future__ import annotations

import pytest

from llm_backend.cli.machine import Machine
from llm_backend.cli.models import present_setup, residencies
from llm_backend.cli.project import Project
from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import StandIn, write_record


def test_each_model_has_its_row(command: Command) -> None:
    result = command("models")

    table = [line.split("  ") for line in result.out.split("\n\n")[0].splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in table]
    assert result.code == 0
    assert rows[0] == ["MODEL", "FOR", "SIZE", "RUNTIME", "FITS", "DOWNLOADED", "STATE"]
    assert rows[1] == ["tiny", "Trying things out", "?", "process", "yes", "yes", "stopped"]
    assert rows[2][2:] == ["1.2 GiB", "process", "yes", "no", "stopped"]
    assert rows[3][4] == "no"


def test_what_cannot_run_here_is_explained_below(command: Command) -> None:
    text = command("models").out

    assert "Cannot run here, in the set-up local:\n" in text
    assert "  huge: it needs 16000000 MiB on cpu, which has " in text
    assert "  boxed: it runs on docker, which the set-up local does not have.\n" in text
    assert text.endswith("To fetch weights: llm-backend download absent\n")


def test_programs_get_the_same(command: Command) -> None:
    result = command("models", "--json").json

    models = {model["id"]: model for model in result["models"]}
    assert result["setup"] == "local"
    assert list(models) == ["tiny", "absent", "huge", "boxed"]
    assert models["tiny"]["ready"] is True
    assert models["absent"]["fetchable"] is True
    assert models["boxed"]["obstacle"].startswith("it runs on docker")


def test_a_running_gateway_tells_the_states(command: Command, gateway: StandIn) -> None:
    models = command("models", "--json").json["models"]

    assert models[0]["residency"] == "awake"


def test_a_gateway_that_does_not_answer_is_no_obstacle(project: Project) -> None:
    write_record(project.state_dir, url="http://127.0.0.1:1")

    assert residencies(project) == {}


@pytest.mark.parametrize("setup", ["compose", "local"])
def test_the_setup_is_that_of_the_running_gateway(
    project: Project, gateway: StandIn, setup: str
) -> None:
    write_record(project.state_dir, url=gateway.url, setup=setup)

    assert present_setup(project, Machine(project)).setup == setup
