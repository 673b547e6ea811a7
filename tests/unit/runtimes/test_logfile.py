from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_backend.runtimes import logfile

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def empty(log: Path) -> None:
    """Do what a launcher does to a log that is over its limit."""
    logfile.previous(log).write_bytes(log.read_bytes())
    os.truncate(log, 0)


def open_new(log: Path, text: str = "") -> None:
    descriptor = logfile.open_new(log)
    os.write(descriptor, text.encode())
    os.close(descriptor)


async def take(lines: AsyncIterator[str], count: int) -> list[str]:
    return [await asyncio.wait_for(anext(lines), 20) for _ in range(count)]


class TestOpenNew:
    def test_old_log_is_put_aside(self, log: Path) -> None:
        open_new(log, "first\n")
        open_new(log, "second\n")
        assert log.read_text() == "second\n"
        assert logfile.previous(log).read_text() == "first\n"

    def test_log_is_its_owners_alone(self, log: Path) -> None:
        open_new(log)
        assert log.stat().st_mode & 0o777 == 0o600

    def test_writers_append(self, log: Path) -> None:
        descriptor = logfile.open_new(log)
        os.write(descriptor, b"one\n")
        os.truncate(log, 0)
        os.write(descriptor, b"two\n")
        os.close(descriptor)
        assert log.read_text() == "two\n"


class TestTail:
    @pytest.mark.parametrize(
        ("text", "lines", "tail"),
        [
            ("", 5, []),
            ("a\nb\nc\n", 2, ["b", "c"]),
            ("a\nb\nc\n", 9, ["a", "b", "c"]),
            ("a\nb\nc\n", 0, []),
            ("a\nunfinished", 2, ["a", "unfinished"]),
            ("a\n\n  \nb\r\n", 2, ["a", "b"]),
            ("10%\r20%\r", 2, ["10%", "20%"]),
        ],
    )
    def test_last_lines(self, log: Path, text: str, lines: int, tail: list[str]) -> None:
        open_new(log, text)
        assert logfile.tail(log, lines) == tail

    def test_no_log(self, log: Path) -> None:
        assert logfile.tail(log, 5) == []

    def test_long_log_is_read_from_its_end(self, log: Path) -> None:
        open_new(log, "".join(f"{number} {'x' * 5000}\n" for number in range(100)))
        assert [line.split()[0] for line in logfile.tail(log, 30)] == [
            str(number) for number in range(70, 100)
        ]

    def test_bytes_that_are_no_text(self, log: Path) -> None:
        open_new(log)
        log.write_bytes(b"\xff\xfe ok\n")
        assert logfile.tail(log, 1) == ["\ufffd\ufffd ok"]


class TestFollow:
    async def test_last_lines_then_new_ones(self, log: Path) -> None:
        open_new(log, "1\n2\n3\n")
        lines = logfile.follow(log, 2)
        assert await take(lines, 2) == ["2", "3"]
        append(log, "4\n")
        assert await take(lines, 1) == ["4"]

    async def test_line_is_given_whole(self, log: Path) -> None:
        open_new(log, "be")
        lines = logfile.follow(log, 5)
        first = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        append(log, "gin\n")
        assert await asyncio.wait_for(first, 20) == "begin"

    async def test_new_start(self, log: Path) -> None:
        open_new(log, "1\n")
        lines = logfile.follow(log, 1)
        assert await take(lines, 1) == ["1"]
        append(log, "2\nunfinished")
        open_new(log, "3\n")
        assert await take(lines, 3) == ["2", "unfinished", "3"]

    async def test_log_that_was_emptied_because_of_its_size(self, log: Path) -> None:
        open_new(log, "a long first line\n")
        lines = logfile.follow(log, 1)
        assert await take(lines, 1) == ["a long first line"]
        append(log, "2\n")
        empty(log)
        append(log, "3\n")
        assert await take(lines, 2) == ["2", "3"]

    async def test_before_the_first_start(self, log: Path) -> None:
        lines = logfile.follow(log, 1)
        first = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        open_new(log, "1\n")
        assert await asyncio.wait_for(first, 20) == "1"

    async def test_endless_line_is_given_in_pieces(self, log: Path) -> None:
        open_new(log, "1\n")
        lines = logfile.follow(log, 1)
        await take(lines, 1)
        append(log, "x" * 100_000)
        assert await take(lines, 1) == ["x" * 100_000]

    async def test_closing_ends_it(self, log: Path) -> None:
        open_new(log, "1\n")
        lines = logfile.follow(log, 1)
        await take(lines, 1)
        await lines.aclose()
        assert [line async for line in lines] == []


async def test_a_log_is_kept_small_while_it_is_written_to(log: Path) -> None:
    open_new(log, "one, which is too much\n")
    keeper = asyncio.create_task(logfile.keep_small(log, 10, every_s=0.01))
    try:
        async with asyncio.timeout(20):
            while await asyncio.to_thread(logfile.tail, log, 1):
                assert not keeper.done()
    finally:
        keeper.cancel()
    append(log, "two\n")
    assert logfile.tail(log, 5) == ["two"]
    assert logfile.tail(logfile.previous(log), 5) == ["one, which is too much"]
