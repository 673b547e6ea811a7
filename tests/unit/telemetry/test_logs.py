"""Log lines: JSON for machines, text for people, on standard error, and nothing below the level."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import structlog
from llm_backend.telemetry.logs import configure
configure(sys.argv[1], sys.argv[2])
log = structlog.get_logger("x")
log.debug("quiet")
log.info("loud", model="org/b", seconds=1.5)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("defect")
"""


def lines(level: str, style: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, level, style]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("style", ["json", "auto"])
def test_machines_get_one_object_a_line(style: str) -> None:
    loud, defect = map(json.loads, lines("info", style))
    assert (loud["event"], loud["level"], loud["model"], loud["seconds"]) == (
        *("loud", "info"),
        *("org/b", 1.5),
    )
    assert loud["timestamp"].endswith("Z")
    assert defect["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_people_get_text() -> None:
    text = "\n".join(lines("info", "text"))
    assert "loud" in text
    assert "model=org/b" in text
    assert "ZeroDivisionError" in text
    assert "{" not in text.splitlines()[0]


def test_the_level() -> None:
    assert [json.loads(x)["event"] for x in lines("debug", "json")] == ["quiet", "loud", "defect"]
    assert [json.loads(x)["event"] for x in lines("error", "json")] == ["defect"]
