"""The recorder notes arrivals, keeps its file small, and loses nothing but lines on a full disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from llm_backend.errors import SetupError
from llm_backend.gateway.record import Record
from llm_backend.replay.recorder import ArrivalRecorder
from llm_backend.replay.trace import Arrival, read_trace
from tests.harness import eventually

pytestmark = pytest.mark.anyio

SECRET = b"secret"


def record(key: str = "alice", **facts: object) -> Record:
    """Return a request that is over, as the pipeline hands it on."""
    made = Record("id", "/v1/chat/completions", model="a", key=key)
    for name, value in {"status": 200, "waited_s": 0.5, "seconds": 2.0, **facts}.items():
        setattr(made, name, value)
    return made


def recorded(path: Path, *records: Record, limit: int = 1_000_000) -> tuple[Arrival, ...]:
    """Note these requests and read them back."""
    recorder = ArrivalRecorder(path, SECRET, limit)
    recorder.open()
    for one in records:
        recorder.note(one)
    recorder.flush()
    return read_trace(path).arrivals


def test_it_notes_the_model_the_class_and_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "day.jsonl"
    (arrival,) = recorded(path, record(prompt_tokens=7, completion_tokens=9))

    assert (arrival.model, arrival.prompt_tokens, arrival.completion_tokens) == ("a", 7, 9)
    assert (arrival.batch, arrival.patience_s) == (False, None)
    assert [a.batch for a in recorded(path, record(batch=True))] == [False, True]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_time_is_that_of_the_arrival(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    before = time.time()
    recorded(path, record(seconds=1000.0))
    arrival = Arrival.model_validate_json(path.read_bytes())

    assert before - 1001 < arrival.at_s < time.time() - 999


def test_keys_are_told_apart_and_not_told(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    alice, bob, again = recorded(path, record("alice"), record("bob"), record("alice"))

    assert alice.key == again.key != bob.key
    assert b"alice" not in path.read_bytes()
    (other,) = read_back_with(tmp_path, b"another secret", record("alice"))
    assert other.key != alice.key


def read_back_with(tmp_path: Path, secret: bytes, one: Record) -> tuple[Arrival, ...]:
    path = tmp_path / "other.jsonl"
    recorder = ArrivalRecorder(path, secret)
    recorder.note(one)
    recorder.flush()
    return read_trace(path).arrivals


def test_a_client_that_left_the_line_had_so_much_patience(tmp_path: Path) -> None:
    gone = record(error="client_gone", waited_s=None, seconds=3.0)
    later = record(error="client_gone", waited_s=1.0, seconds=3.0)
    arrivals = recorded(tmp_path / "day.jsonl", gone, later)

    assert sorted(a.patience_s or 0 for a in arrivals) == [0, 3.0]


def test_what_was_recorded_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    recorded(path, record())

    assert len(recorded(path, record())) == 2


def test_the_file_is_bounded_and_the_newest_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    recorder = ArrivalRecorder(path, SECRET, limit=1000)
    for number in range(100):
        recorder.note(record(prompt_tokens=number))
        recorder.flush()

    previous = tmp_path / "day.jsonl.1"
    assert sorted(tmp_path.iterdir()) == [path, previous]
    assert path.stat().st_size <= 1000
    assert previous.stat().st_size <= 1000
    newest = [Arrival.model_validate_json(line) for line in path.read_bytes().splitlines()]
    assert newest[-1].prompt_tokens == 99


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SetupError, match=r"switching\.record: .* cannot be written: "):
        ArrivalRecorder(tmp_path / "file" / "day.jsonl", SECRET).open()


def test_a_disk_that_fails_later_loses_lines_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "day.jsonl"
    recorder = ArrivalRecorder(path, SECRET)
    path.mkdir()  # nobody can write to a directory
    for _ in range(3):
        recorder.note(record())
        recorder.flush()
    said = capsys.readouterr()

    assert (said.out + said.err).count("arrivals_lost") == 1
    path.rmdir()
    recorder.note(record())
    recorder.flush()
    assert len(read_trace(path).arrivals) == 1


async def test_lines_are_written_soon_and_the_rest_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    async with ArrivalRecorder.writing(path, SECRET) as recorder:
        recorder.note(record())
        await asyncio.to_thread(eventually, lambda: path.stat().st_size)
        recorder.note(record())
    assert len(read_trace(path).arrivals) == 2
