"""What a user changes in .env is not on the engines before they are made anew, and then it is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.stack import ENGINES, Stack, docker

pytestmark = [pytest.mark.docker, pytest.mark.slow]

OPTIONS = ("--setup", "compose", "--model", "qwen-coder", "--yes", "--detach")


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Stack]:
    stack.script("start_all", *OPTIONS)
    yield stack
    stack.script("stop_all")


def command_line(container: str) -> list[str]:
    shown = docker("container", "inspect", "--format", "{{json .Config.Cmd}}", container).stdout
    found: list[str] = json.loads(shown)
    return found


def test_a_share_in_env_needs_new_containers_and_then_counts_for_all(running: Stack) -> None:
    running.compose("config", "--quiet")
    assert running.cli("config", "check").returncode == 0

    (running.root / ".env").write_text("GPU_MEMORY_UTILIZATION=0.85\n")
    running.compose("config", "--quiet")
    done = running.cli("config", "check", check=False)
    assert done.returncode == 1
    for container in ENGINES.values():
        assert f"The container {container} has to be made anew" in done.stdout
        assert "--gpu-memory-utilization" not in command_line(container)

    running.script("stop_all")
    running.script("start_all", *OPTIONS)
    for container in ENGINES.values():
        assert command_line(container)[-2:] == ["--gpu-memory-utilization", "0.85"]
    assert "'gpu_memory_utilization': '0.85'" in running.script("logs", "qwen-coder").stdout
    assert running.cli("config", "check").returncode == 0
