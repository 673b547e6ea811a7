"""Reading ahead, on real files; that it reaches the page cache is seen by mincore(2)."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llm_backend.weights.page_cache import CHUNK, ReadAhead, available_memory, weight_files

PATIENCE_S = 20
PIPE_SIZE = 64 * 1024
LINUX = sys.platform == "linux"


def made(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(1024) * (size // 1024))
    return path


def dropped(path: Path) -> None:
    """Have nothing of a file in the page cache."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def pages_in_memory(path: Path) -> tuple[int, int]:
    """Return how many pages of a file are in the page cache, and how many it has."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), vector
        )
        del first
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in vector), pages


@pytest.mark.skipif(not LINUX, reason="posix_fadvise and mincore as on Linux")
def test_afterwards_the_file_is_in_the_page_cache(tmp_path: Path) -> None:
    path = made(tmp_path / "model.safetensors", 3 * CHUNK)
    dropped(path)
    before, pages = pages_in_memory(path)
    assert before < pages / 2, "nothing to be seen here: this file system keeps all in memory"

    ahead = ReadAhead()
    ahead.run(lambda: [path])

    assert pages_in_memory(path) == (pages, pages)
    assert (ahead.read, ahead.skipped) == (3 * CHUNK, [])


def test_all_files_are_read_in_their_order(tmp_path: Path) -> None:
    files = [made(tmp_path / f"{n}.gguf", (n + 1) * 1024) for n in range(3)]

    ahead = ReadAhead()
    ahead.run(lambda: files)

    assert ahead.read == 6 * 1024


def test_it_stops_after_the_chunk_that_it_is_at(tmp_path: Path) -> None:
    pipe = tmp_path / "model.gguf"
    os.mkfifo(pipe)
    ahead = ReadAhead()
    reading = threading.Thread(target=ahead.run, args=(lambda: [pipe, pipe],))
    reading.start()
    with pipe.open("wb", buffering=0) as writer:
        writer.write(bytes(PIPE_SIZE + 1))  # returns when something of it was read
        ahead.stop()
        with suppress(BrokenPipeError):  # it may be gone already
            writer.write(b"more")
        reading.join(PATIENCE_S)
        assert not reading.is_alive(), "the pipe has not ended"
    assert ahead.read > 0


def test_one_that_was_stopped_reads_nothing(tmp_path: Path) -> None:
    ahead = ReadAhead()
    ahead.stop()

    ahead.run(lambda: [made(tmp_path / "model.gguf", 1024)])

    assert ahead.read == 0


def test_no_more_is_read_than_the_share_of_the_memory(tmp_path: Path) -> None:
    large, small, last = (
        made(tmp_path / name, size)
        for name, size in (("1.gguf", 6 * 1024), ("2.gguf", 4 * 1024), ("3.gguf", 2 * 1024))
    )

    ahead = ReadAhead(share=0.5, available=lambda: 10 * 1024)
    ahead.run(lambda: [large, small, last])

    assert (ahead.read, ahead.skipped) == (4 * 1024, [large, last])


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    gone, here = tmp_path / "gone.gguf", made(tmp_path / "here.gguf", 1024)

    ahead = ReadAhead()
    ahead.run(lambda: [gone, tmp_path, here])

    assert (ahead.read, ahead.skipped) == (1024, [gone, tmp_path])


@pytest.mark.skipif(not LINUX, reason="I/O priorities are Linux's")
def test_its_reads_come_last_and_its_thread_is_as_it_was_before(tmp_path: Path) -> None:
    thread = psutil.Process(threading.get_native_id())
    before, meanwhile = thread.ionice(), []

    def files() -> Iterator[Path]:
        meanwhile.append(thread.ionice().ioclass)
        yield made(tmp_path / "model.gguf", 1024)

    ReadAhead().run(files)

    assert meanwhile == [psutil.IOPRIO_CLASS_IDLE]
    assert thread.ionice() == before


def test_there_is_memory_to_be_had() -> None:
    assert 0 < available_memory() < psutil.virtual_memory().total


class TestWeightFiles:
    def test_a_file_is_itself(self, tmp_path: Path) -> None:
        path = made(tmp_path / "any.thing", 1024)

        assert weight_files(path) == [path]

    def test_of_a_directory_the_preferred_format(self, tmp_path: Path) -> None:
        for name in ("2.safetensors", "1.safetensors", "pytorch_model.bin", "config.json"):
            made(tmp_path / name, 1024)

        assert weight_files(tmp_path) == [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]

    def test_of_a_directory_without_weights_nothing(self, tmp_path: Path) -> None:
        made(tmp_path / "config.json", 1024)

        assert weight_files(tmp_path) == []
