"""The mock engine and the load generator, against each other: wrong answers must not go unseen."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.programs import Outcome, compiled, load, mock
from bench.scenarios import body
from bench.waiting import post

EVENTS = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mock(0, tmp_path_factory.mktemp("mock") / "log") as port:
        yield port


@pytest.fixture
def answer(engine: int, tmp_path: Path) -> Path:
    path = tmp_path / "answer.json"
    path.write_bytes(post(engine, "/v1/chat/completions", body("short", "bench", 1), {})[1])
    return path


def run(engine: int, folder: Path, content: bytes, *arguments: str) -> Outcome:
    path = folder / "body.json"
    path.write_bytes(content)
    return load(0, ["-p", str(engine), "-b", str(path), *arguments])


def test_the_mock_engine_answers_as_an_engine_does(engine: int, answer: Path) -> None:
    whole = json.loads(answer.read_bytes())

    assert 280 <= answer.stat().st_size <= 350
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert post(engine, "/v1/completions", b"{}", {})[0] == 200
    assert post(engine, "/v1/nothing", b"{}", {})[0] == 404


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_the_mock_engine_says_that_it_is_there(engine: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", engine, timeout=10)
    connection.request("GET", path)
    assert connection.getresponse().status == 200
    connection.close()


def test_the_mock_engine_takes_chunked_bodies(engine: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", engine, timeout=10)
    for _ in range(2):  # on one connection
        pieces = iter([b'{"stream"', b": tr", b'ue, "max_tokens": 2}'])
        connection.request("POST", "/v1/chat/completions", pieces, encode_chunked=True)
        events = connection.getresponse().read().split(b"\n\n")
        assert [event[:6] for event in events] == [b"data: "] * 4 + [b""]
        assert events[3] == b"data: [DONE]"
    connection.close()


def test_answers_are_counted(engine: int, answer: Path, tmp_path: Path) -> None:
    outcome = run(
        *(engine, tmp_path, body("short", "bench", 1)), "-c", "3", "-d", "0.1", "-e", str(answer)
    )

    assert outcome.answers > 3
    assert outcome.errors == 0
    assert 0 < outcome.p50_us <= outcome.p99_us


def test_large_bodies_arrive_whole(engine: int, answer: Path, tmp_path: Path) -> None:
    content = body("image", "bench", 1)
    outcome = run(engine, tmp_path, content, "-c", "2", "-d", "0.1", "-e", str(answer))

    assert outcome.answers >= 2
    assert outcome.errors == 0


def test_another_body_is_an_error(engine: int, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"{}")
    content = body("short", "bench", 1)
    outcome = run(engine, tmp_path, content, "-c", "1", "-d", "0.05", "-e", str(other))

    assert outcome.answers == 0
    assert outcome.first_error == "an answer with another body"


def test_a_text_that_an_answer_must_hold_is_looked_for(engine: int, tmp_path: Path) -> None:
    content = body("short", "bench", 1)
    outcome = run(engine, tmp_path, content, "-c", "1", "-d", "0.05", "-m", "no such text")

    assert outcome.answers == 0
    assert outcome.first_error == "an answer without the text that it must hold"


@pytest.mark.parametrize(
    ("line", "is_there"), [("Content-Type: application/json", True), ("x-cache: hit", False)]
)
def test_answers_with_a_header_are_counted(
    engine: int, tmp_path: Path, line: str, *, is_there: bool
) -> None:
    content = body("short", "bench", 1)
    outcome = run(engine, tmp_path, content, "-c", "1", "-d", "0.05", "-x", line)

    assert outcome.answers
    assert outcome.marked == (outcome.answers if is_there else 0)


def test_streams_are_counted_by_their_events(engine: int, tmp_path: Path) -> None:
    outcome = run(
        *(engine, tmp_path, body("stream", "bench", EVENTS)), "-c", "3", "-s", str(EVENTS)
    )

    assert (outcome.answers, outcome.errors) == (3, 0)
    assert outcome.events == 3 * (EVENTS + 1)  # the last one tells the reason of the end
    assert outcome.gap_p50_us > 0


def test_a_stream_that_is_too_short_is_an_error(engine: int, tmp_path: Path) -> None:
    content = body("stream", "bench", EVENTS)
    outcome = run(engine, tmp_path, content, "-c", "2", "-s", str(EVENTS + 2))

    assert (outcome.answers, outcome.errors) == (0, 2)
    assert outcome.first_error == "a stream with too few events"


def test_an_answer_that_is_no_stream_is_an_error(engine: int, tmp_path: Path) -> None:
    content = body("short", "bench", EVENTS)
    outcome = run(engine, tmp_path, content, "-c", "1", "-s", str(EVENTS))

    assert outcome.first_error == "a stream without [DONE]"


def test_a_gateway_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    outcome = run(1, tmp_path, b"{}", "-c", "1", "-d", "0.05")

    assert outcome.errors == 1
    assert "connect" in outcome.first_error


def test_a_program_is_compiled_once() -> None:
    before = compiled("load").stat().st_mtime_ns

    assert compiled("load").stat().st_mtime_ns == before
