"""What is kept across restarts: measured times, and the models that are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.switching.history import (
    KEPT,
    DoubtFile,
    History,
    WantedFile,
    read_json,
    write_json,
)

pytestmark = pytest.mark.anyio

DAMAGED = [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b'{"a": NaN}']


async def test_times_outlive_a_restart(tmp_path: Path) -> None:
    history = History(tmp_path / "state/history.json")
    history.add("a", "load", 1.23456)
    history.add("a", "load", 2)
    history.add("org/b", "stop", 0.1)
    await history.save()

    other = History(tmp_path / "state/history.json")
    other.load()

    assert other.durations == {"a": {"load": [1.235, 2]}, "org/b": {"stop": [0.1]}}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "history.json")
    for number in range(KEPT + 5):
        history.add("a", "load", number)
    assert history.durations["a"]["load"] == list(range(5, KEPT + 5))


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_an_empty_one(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "history.json"
    path.write_bytes(text)
    history = History(path)
    history.load()
    assert history.durations == {}
    assert WantedFile(path).load() == {}


def test_what_is_not_of_the_right_form_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    write_json(path, {"a": {"load": [1, -1, "2", None], "stop": 3}, "b": [1], "c": {}})
    history = History(path)
    history.load()
    assert history.durations == {"a": {"load": [1.0]}, "c": {}}


async def test_a_full_disk_loses_measurements_and_nothing_else(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where a directory is to be")
    history = History(taken / "history.json")
    history.add("a", "load", 1)
    await history.save()
    WantedFile(taken / "wanted.json").save({"gpu": "a"})
    assert taken.read_text() == "a file where a directory is to be"


def test_the_wanted_models_outlive_a_restart(tmp_path: Path) -> None:
    file = WantedFile(tmp_path / "wanted.json")
    assert file.load() == {}
    file.save({"gpu0": "a", "gpu1": None})
    assert file.load() == {"gpu0": "a"}
    file.save({"gpu0": None})
    assert file.load() == {}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_doubts_outlive_a_gateway(tmp_path: Path) -> None:
    doubts = DoubtFile(tmp_path / "asleep.json")
    doubts.note("a-1")
    doubts.note("b-1")
    doubts.clear("a-1")
    doubts.clear("never")

    after = DoubtFile(tmp_path / "asleep.json")
    after.load()

    assert "b-1" in after
    assert "a-1" not in after


def test_a_doubt_that_cannot_be_noted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        DoubtFile(tmp_path / "file" / "asleep.json").note("a-1")
