"""Logs of files and of containers, read alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.control import read_record
from llm_backend.cli.log_sources import ContainerLog, FileLog, container_logs, gateway_log
from llm_backend.cli.project import Project
from llm_backend.errors import SetupError
from tests.unit.cli.conftest import Command
from tests.unit.cli.fake_docker import WELL, FakeDocker, listing
from tests.unit.cli.stand_in import write_record

pytestmark = pytest.mark.anyio


@pytest.fixture
def made(project: Project, fake_docker: FakeDocker) -> FakeDocker:
    """Containers that a start has made."""
    ComposeEnv(project).prepare([])
    fake_docker.answers("ps --all", 0, listing(WELL))
    fake_docker.answers("logs --tail 2 llm-boxed", 0, "  indented\nlast", "of standard error")
    fake_docker.answers("logs --tail llm-backend-gateway-1", 0, "of the gateway")
    return fake_docker


async def test_an_engines_log_goes_by_its_model(project: Project, made: FakeDocker) -> None:
    logs = container_logs(project)

    assert sorted(logs) == ["boxed", "gateway", "redis"]
    assert logs["boxed"].tail(2) == ["  indented", "last", "of standard error"]


async def test_without_containers_there_are_none(project: Project, fake_docker: FakeDocker) -> None:
    assert container_logs(project) == {}


async def test_a_log_that_docker_does_not_show_is_said(made: FakeDocker) -> None:
    made.answers("logs gone", 1, "", "Error response from daemon: No such container: gone")

    with pytest.raises(SetupError, match="No such container: gone"):
        ContainerLog("gone").tail(1)


async def test_a_container_is_followed_until_it_ends(made: FakeDocker) -> None:
    made.answers("logs --follow --tail 1 llm-boxed", 0, "one\ntwo")

    async with asyncio.timeout(30):
        assert [line async for line in ContainerLog("llm-boxed").follow(1)] == ["one", "two"]


async def test_who_stops_following_leaves_no_docker(made: FakeDocker) -> None:
    made.answers("logs --follow", -600, "one")
    following = ContainerLog("llm-boxed").follow(0)

    async with asyncio.timeout(30):
        assert await anext(following) == "one"
        await following.aclose()  # type: ignore[attr-defined]  # an async generator at run time


async def test_the_gateways_log_is_where_it_runs(project: Project, made: FakeDocker) -> None:
    write_record(project.state_dir, setup="compose")
    record = read_record(project.state_dir)
    assert record is not None
    assert gateway_log(project, record).tail(9) == ["of the gateway"]

    write_record(project.state_dir)
    record = read_record(project.state_dir)
    assert record is not None
    assert gateway_log(project, record) == FileLog(project.gateway_log)


async def test_a_file_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo\n")

    assert FileLog(tmp_path / "log").tail(1) == ["two"]
    assert await anext(FileLog(tmp_path / "log").follow(1)) == "two"


def test_the_command_shows_them(command: Command, made: FakeDocker) -> None:
    assert command("logs", "boxed", "-n", "2").out.endswith("last\nof standard error\n")
    assert command("logs").out == "of the gateway\n"
    assert "redis   | " not in command("logs", "all", "-n", "1").out
    assert "gateway | of the gateway" in command("logs", "all", "-n", "1").out
    assert "grafana has no container here." in command("logs", "grafana").err
