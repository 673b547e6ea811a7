"""The launcher alone, as a program."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_backend.runtimes import launcher


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return {
        "record": {"instance": "1f", "model": "a", "group": "cpu", "stop_s": 5},
        "record_path": str(tmp_path / "a.json"),
        "lock_path": str(tmp_path / "lock"),
        "log_path": str(tmp_path / "log"),
        "log_limit": 1 << 20,
        "argv": ["touch", str(tmp_path / "started")],
        "cwd": None,
    }


def launch(spec: dict[str, Any], *, is_read: bool = True) -> Any:
    """Run a launcher; return its answer once it and its engine have ended."""
    answer_end, report_end = os.pipe()
    # Stays open as long as the launcher lives: its end is the launcher's.
    life_end, held_end = os.pipe()
    if not is_read:
        os.close(answer_end)
    with Path(spec["log_path"]).open("a") as log:
        subprocess.run(
            [
                *(sys.executable, "-I", "-S", launcher.__file__),
                json.dumps({**spec, "report_fd": report_end}),
            ],
            stdout=log,
            stderr=log,
            pass_fds=(report_end, held_end),
            check=True,
        )
    os.close(report_end)
    os.close(held_end)
    with os.fdopen(life_end, "rb") as life:
        life.read()
    if not is_read:
        return None
    with os.fdopen(answer_end, "rb") as answer:
        return json.load(answer)


def record(spec: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(spec["record_path"]).read_text())


def test_engine_that_runs_is_reported_and_its_end_recorded(spec: dict[str, Any]) -> None:
    answer = launch(spec)
    added = {"pid": answer["pid"], "code": 0, "rests": False, "answers": 0}
    assert record(spec) == {**spec["record"], **added}
    assert Path(spec["argv"][1]).exists()


def test_lock_file_names_its_holder(spec: dict[str, Any]) -> None:
    answer = launch(spec)
    assert json.loads(Path(spec["lock_path"]).read_text()) == {
        "pid": answer["pid"],
        "what": "the engine of a",
        "instance": "1f",
    }


def test_held_lock_has_a_status_of_its_own(spec: dict[str, Any]) -> None:
    lock = Path(spec["lock_path"])
    lock.write_text('{"pid": 7, "what": "the engine of b"}')
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = launch(spec)
    assert answer == {
        "error": "the lock of group cpu is held by the engine of b (pid 7)",
        "status": launcher.LOCK_HELD,
    }
    assert not Path(spec["record_path"]).exists()
    assert answer["error"] in Path(spec["log_path"]).read_text()


def test_engine_that_cannot_be_executed_has_a_status_of_its_own(spec: dict[str, Any]) -> None:
    answer = launch({**spec, "argv": ["/no/such/engine"]})
    assert answer["status"] == launcher.CANNOT_RUN
    assert record(spec)["code"] == launcher.CANNOT_RUN


def test_nothing_is_started_for_a_gateway_that_left(spec: dict[str, Any]) -> None:
    launch(spec, is_read=False)
    assert not Path(spec["argv"][1]).exists()
    assert not Path(spec["record_path"]).exists()
    assert "the gateway left" in Path(spec["log_path"]).read_text()


def test_launcher_starts_light() -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(launcher.__file__).parent)!r}); import launcher; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, text=True
    )
    assert not {"typing", "pathlib", "subprocess", "asyncio"} & set(loaded.stdout.split())
