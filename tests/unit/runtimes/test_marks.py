from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llm_backend.runtimes.marks import Marks

pytestmark = pytest.mark.anyio


@contextmanager
def marked(marks: Marks, instance: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = marks.environment(instance, {})
    with subprocess.Popen(["sleep", "600"], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "secret")
    monkeypatch.setenv("HF_HOME", "/weights")
    environment = Marks(tmp_path, tmp_path).environment("1f", {"A": "1"})
    assert environment["LLM_BACKEND_ENGINE"] == "1f"
    assert environment["LLM_BACKEND_STATE"] == str(tmp_path)
    assert (environment["HF_HOME"], environment["A"]) == ("/weights", "1")
    assert "LLM_API_KEY" not in environment


def test_processes_are_found_by_instance_and_state_directory(tmp_path: Path) -> None:
    marks, others = Marks(tmp_path / "a", tmp_path), Marks(tmp_path / "b", tmp_path)
    with ExitStack() as stack:
        first = stack.enter_context(marked(marks, "1"))
        second = stack.enter_context(marked(marks, "2"))
        third = stack.enter_context(marked(others, "1"))
        found = {
            instance: [process.pid for process in processes]
            for instance, processes in marks.processes().items()
        }
        assert found == {"1": [first.pid], "2": [second.pid]}
        assert marks.process(first.pid, "1") is not None
        assert marks.process(first.pid, "2") is None
        assert marks.process(third.pid, "1") is None


async def test_only_the_instance_is_ended(tmp_path: Path) -> None:
    marks = Marks(tmp_path, tmp_path)
    with marked(marks, "1") as first, marked(marks, "2") as second:
        await marks.end("1")
        assert first.wait(20) == -9
        assert second.poll() is None


async def test_nothing_to_end(tmp_path: Path) -> None:
    await Marks(tmp_path, tmp_path / "no").end("1")
