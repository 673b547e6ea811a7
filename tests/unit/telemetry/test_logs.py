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
secret = "the " + "prompt"
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


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_defect_does_not_tell_what_variables_held(style: str) -> None:
    text = "\n".join(lines("info", style))
    assert "ZeroDivisionError" in text
    assert "the prompt" not in text


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


SECRETS = """
import sys
import structlog
from llm_backend.telemetry.logs import configure, defect
configure(sys.argv[1], sys.argv[2])
log = structlog.get_logger("x")
def answer(prompt, headers):
    raise ValueError(f"cannot read {prompt!r}")
def serve():
    body = "my " + "prompt"
    answer(body, {"authorization": "my " + "key"})
try:
    serve()
except ValueError as error:
    log.error("request_defect", **defect(error))
try:
    answer("a " + "name", {"authorization": "my " + "key"})
except ValueError:
    log.exception("other_defect")
"""


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_traceback_shows_no_variables_and_a_defect_of_a_request_not_even_what_it_says(
    style: str,
) -> None:
    command = [sys.executable, "-c", SECRETS, "debug", style]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "my prompt" not in told
    assert "my key" not in told
    assert "cannot read 'a name'" in told
    assert told.count("ValueError") >= 2
    assert "<string>:8 answer" in told


def test_the_level() -> None:
    assert [json.loads(x)["event"] for x in lines("debug", "json")] == ["quiet", "loud", "defect"]
    assert [json.loads(x)["event"] for x in lines("error", "json")] == ["defect"]


FREQUENT = """
import asyncio, sys
from dataclasses import dataclass
from datetime import UTC, datetime
from llm_backend.telemetry.logs import FrequentLog, configure
configure(*sys.argv[1:])
log = FrequentLog(*sys.argv[1:])
@dataclass(slots=True)
class Facts:
    number: int
    key: str | None
    timestamp: datetime
    _secret: str = "never told"
async def main():
    for number in range(3):
        log.write("request", Facts(number, None, datetime.now(UTC)))
    await asyncio.sleep(0.2)
    log.write("request", Facts(3, "ключ", datetime.now(UTC)))
    log.flush()
asyncio.run(main())
"""


def frequent(level: str, style: str) -> list[str]:
    command = [sys.executable, "-c", FREQUENT, level, style]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_frequent_lines_look_like_the_others() -> None:
    (other, _), told = map(json.loads, lines("info", "json")), frequent("info", "json")
    found = [json.loads(line) for line in told]
    assert [line["number"] for line in found] == [0, 1, 2, 3]
    assert all(line["event"] == "request" and line["level"] == "info" for line in found)
    assert {"event", "level", "timestamp"} <= found[0].keys() & other.keys()
    assert found[0]["timestamp"].endswith("Z")
    assert found[3]["key"] == "ключ"
    assert "never told" not in "".join(told)


def test_people_get_frequent_lines_as_text() -> None:
    told = frequent("info", "text")
    assert len(told) == 4
    assert "number=3" in told[3]
    assert "never told" not in "".join(told)


def test_frequent_lines_have_a_level() -> None:
    assert frequent("warning", "json") == frequent("error", "text") == []
