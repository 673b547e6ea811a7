"""Records of containers: written whole, read strictly, and never taken for a process's record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_backend.engines.base import LaunchPlan
from llm_backend.runtimes.docker_records import ContainerRecord, ContainerRecords, engine_of
from llm_backend.runtimes.records import Records

PLAN = LaunchPlan(
    model="org/a:1",
    group="gpu0",
    served_name="a",
    host="llm-a",
    port=8001,
    container="llm-a",
    key="secret",
    fingerprint="1",
)
RECORD = replace(ContainerRecord.of(PLAN, "llm-a"), started="id:time")


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    records = ContainerRecords(tmp_path)
    assert records.load("org/a:1") is None
    assert records.all() == []
    records.save(RECORD)
    assert records.load("org/a:1") == RECORD
    assert records.all() == [RECORD]
    records.forget("org/a:1")
    records.forget("org/a:1")
    assert records.all() == []


def test_no_secret_is_kept(tmp_path: Path) -> None:
    ContainerRecords(tmp_path).save(RECORD)
    (path,) = (tmp_path / "engines").iterdir()
    assert path.name == "org_a_1.docker.json"
    assert "secret" not in path.read_text()


def test_the_process_runtime_does_not_read_them(tmp_path: Path) -> None:
    ContainerRecords(tmp_path).save(RECORD)
    assert Records(tmp_path).all() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"container": "x"}', "null"])
def test_a_broken_record_is_none(tmp_path: Path, text: str) -> None:
    records = ContainerRecords(tmp_path)
    records.save(RECORD)
    (tmp_path / "engines/org_a_1.docker.json").write_text(text)
    assert records.load("org/a:1") is None
    assert records.all() == []


def test_only_the_last_start_is_marked(tmp_path: Path) -> None:
    records = ContainerRecords(tmp_path)
    assert records.mark_stopping("org/a:1", "id:time") is None
    records.save(RECORD)
    assert records.mark_stopping("org/a:1", "id:earlier") is None
    assert records.load("org/a:1") == RECORD
    assert records.mark_stopping("org/a:1", "id:time") == RECORD
    assert records.load("org/a:1") == replace(RECORD, stopping=True)


def test_rest_is_marked_and_taken_back(tmp_path: Path) -> None:
    records = ContainerRecords(tmp_path)
    records.mark_resting("org/a:1", "id:time", resting=True)
    assert records.all() == []
    records.save(RECORD)
    records.mark_resting("org/a:1", "id:earlier", resting=True)
    assert records.load("org/a:1") == RECORD
    records.mark_resting("org/a:1", "id:time", resting=True)
    assert records.load("org/a:1") == replace(RECORD, resting=True)
    records.mark_resting("org/a:1", "id:time", resting=False)
    assert records.load("org/a:1") == RECORD


def test_a_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    records = ContainerRecords(tmp_path)
    records.save(RECORD)
    path = tmp_path / "engines/org_a_1.docker.json"
    known = json.loads(path.read_text())
    del known["resting"]
    path.write_text(json.dumps(known))
    assert records.load("org/a:1") == RECORD


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "2"}, {"group": "gpu1"}, {"port": 1}, {"host": "x"}, {"served_name": "x"}],
    ids=lambda other: next(iter(other)),
)
def test_an_engine_serves_its_own_plan_alone(other: dict[str, object]) -> None:
    assert RECORD.serves(PLAN, "id:time")
    assert RECORD.serves(replace(PLAN, stop_s=1), "id:time")
    assert not RECORD.serves(PLAN, "id:later")
    assert not replace(RECORD, stopping=True).serves(PLAN, "id:time")
    assert not replace(RECORD, resting=True).serves(PLAN, "id:time")
    assert not RECORD.serves(replace(PLAN, **other), "id:time")  # type: ignore[arg-type]  # any field


def test_the_engine_is_what_the_plan_says() -> None:
    engine = engine_of(PLAN, "llm-a", "id:time")
    assert (engine.url, engine.key, engine.handle) == ("http://llm-a:8001", "secret", "llm-a")
