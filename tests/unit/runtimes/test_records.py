from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from llm_backend.engines.base import LaunchPlan
from llm_backend.runtimes.base import Exit
from llm_backend.runtimes.records import EngineRecord, Records, describe, dump

RECORD = EngineRecord(
    instance="1f",
    model="org/a:1",
    group="cpu",
    fingerprint="f",
    host="127.0.0.1",
    port=8001,
    served_name="served",
    stop_s=5,
    pid=42,
)
PLAN = LaunchPlan(model="org/a:1", group="cpu", fingerprint="f", served_name="served", key="secret")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with status 0"),
        (127, "exited with status 127"),
        (-11, "killed by SIGSEGV"),
        (-99, "killed by signal 99"),
    ],
)
def test_status_in_words(code: int, words: str) -> None:
    assert describe(code) == words


@pytest.mark.parametrize(
    ("known", "ended"),
    [
        ({"code": 3}, Exit(3, "exited with status 3")),
        ({"code": -15, "stopping": True}, Exit(-15, "killed by SIGTERM")),
        ({"code": -9}, Exit(-9, "killed by SIGKILL (out of memory?)")),
        (
            {"code": -9, "stopping": True, "killed": True},
            Exit(-9, "killed by SIGKILL, because it did not end in time after SIGTERM"),
        ),
        ({}, Exit(None, "its launcher was killed")),
    ],
)
def test_exit(known: dict[str, int], ended: Exit) -> None:
    assert dataclasses.replace(RECORD, **known).exit() == ended


def test_record_serves_the_plan_it_was_started_with() -> None:
    assert RECORD.serves(PLAN)
    assert RECORD.serves(dataclasses.replace(PLAN, port=8001))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "b"},
        {"group": "gpu"},
        {"fingerprint": "g"},
        {"host": "::1"},
        {"port": 8002},
        {"served_name": "other"},
    ],
)
def test_record_does_not_serve_another_plan(change: dict[str, object]) -> None:
    assert not RECORD.serves(dataclasses.replace(PLAN, **change))


@pytest.mark.parametrize("change", [{"code": 0}, {"stopping": True}, {"rests": True}])
def test_record_of_an_engine_that_ended_or_was_asked_to_or_rests_serves_nothing(
    change: dict[str, object],
) -> None:
    assert not dataclasses.replace(RECORD, **change).serves(PLAN)


def test_engine_has_its_key_from_the_plan() -> None:
    engine = RECORD.engine(PLAN)
    assert (engine.key, engine.handle, engine.url) == ("secret", "42", "http://127.0.0.1:8001")
    assert RECORD.engine().key is None


class TestRecords:
    def test_what_a_launcher_writes_is_read(self, tmp_path: Path) -> None:
        records = Records(tmp_path)
        written = {**dump(RECORD), "pid": 42, "code": -9, "unknown": "to this version"}
        records.path("org/a:1").write_text(json.dumps(written))
        assert records.load("org/a:1") == dataclasses.replace(RECORD, code=-9)
        assert records.all() == [dataclasses.replace(RECORD, code=-9)]

    def test_launcher_gets_nothing_that_it_writes_itself(self) -> None:
        assert not {"pid", "code", "stopping", "killed"} & dump(RECORD).keys()

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"instance": "1f"}'])
    def test_broken_record_is_none(self, tmp_path: Path, text: str) -> None:
        records = Records(tmp_path)
        records.path("a").write_text(text)
        assert records.load("a") is None
        assert records.all() == []

    def test_record_of_a_model_with_the_same_file_name_is_none(self, tmp_path: Path) -> None:
        records = Records(tmp_path)
        records.path("org_a_1").write_text(json.dumps(dump(RECORD)))
        assert records.load("org_a_1") is None
        assert records.load("org/a:1") is not None

    def test_no_record(self, tmp_path: Path) -> None:
        assert Records(tmp_path).load("a") is None
        assert Records(tmp_path).all() == []


def test_the_reason_of_a_company_is_that_of_its_own_start(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.path(RECORD.model)
    assert records.why(RECORD) is None
    told = {"instance": RECORD.instance, "code": 3, "reason": "ended because of its helper"}
    records.why_path(RECORD.model).write_text(json.dumps(told))

    why = records.why(RECORD)

    assert why == Exit(3, "ended because of its helper")
    assert dataclasses.replace(RECORD, code=3).exit(why) == why
    assert records.why(dataclasses.replace(RECORD, instance="2a")) is None
    killed = dataclasses.replace(RECORD, code=-9, killed=True)
    assert "because it did not end in time" in killed.exit(why).reason


def test_ports_of_helpers_survive_the_file(tmp_path: Path) -> None:
    record = dataclasses.replace(RECORD, helpers=(("tok", 8001), ("npu", 8002)))
    records = Records(tmp_path)
    records.path(record.model).write_text(json.dumps({**dump(record), "pid": 1}))

    loaded = records.load(record.model)

    assert loaded is not None
    assert loaded.engine().helpers == record.helpers
