"""`logs`: whose log, how much of it, and what is said where there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llm_backend.cli import logs as module
from llm_backend.cli.logs import find_logs
from llm_backend.cli.project import Project
from tests.unit.cli.conftest import Command


@pytest.fixture
def written(project: Project) -> Project:
    project.gateway_log.parent.mkdir(parents=True)
    project.gateway_log.write_text("".join(f"gateway line {n}\n" for n in range(60)))
    project.engine_log("tiny").write_text("engine line\n")
    return project


def test_the_gateways_log_is_the_default(command: Command, written: Project) -> None:
    result = command("logs")

    lines = result.out.splitlines()
    assert result.code == 0
    assert (len(lines), lines[0], lines[-1]) == (50, "gateway line 10", "gateway line 59")


def test_the_number_of_lines_can_be_chosen(command: Command, written: Project) -> None:
    assert command("logs", "gateway", "-n", "2").out == "gateway line 58\ngateway line 59\n"
    assert command("logs", "gateway", "-n", "0").out == ""


def test_a_models_log_is_found_by_its_alias(command: Command, written: Project) -> None:
    assert command("logs", "t").out == "engine line\n"


def test_all_logs_say_whose_each_line_is(command: Command, written: Project) -> None:
    result = command("logs", "all", "-n", "1")

    assert result.out == "gateway | gateway line 59\ntiny    | engine line\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("gateway", "There is no log of the gateway yet, at {logs}/gateway.log."),
        ("all", "There is no log of the gateway yet, at {logs}/gateway.log."),
        ("tiny", "There is no log of tiny yet, at {logs}/tiny.log."),
        ("redis", "There is no log of redis: in this set-up it does not run."),
        ("nope", "The catalog has no model 'nope'; it has tiny, absent, huge, boxed."),
    ],
)
def test_a_log_that_is_not_there_is_said(
    command: Command, project: Project, source: str, text: str
) -> None:
    result = command("logs", source)

    assert result.code == 1
    assert text.format(logs=project.state_dir / "logs") in result.err
    assert "llm-backend " in result.err.splitlines()[-1]


@pytest.mark.anyio
async def test_following_prints_what_comes(
    written: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = find_logs(written, "all")
    following = asyncio.create_task(module._follow(files, 1))
    seen = ""
    async with asyncio.timeout(30):
        while "| engine line" not in seen:
            await asyncio.sleep(0.01)
            seen += capsys.readouterr().out
        with written.engine_log("tiny").open("a") as log:
            log.write("a new line\n")
        while "tiny    | a new line\n" not in seen:
            await asyncio.sleep(0.01)
            seen += capsys.readouterr().out
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
