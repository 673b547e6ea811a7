"""One file over HTTP: cuts, wrong content, two processes at once."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from llm_backend.errors import DownloadError
from llm_backend.testing.hub_server import COMMIT, Faults, ModelHub, serving
from llm_backend.weights.receive import Receiver, RemoteFile, bytes_here

CONTENT = bytes(range(256)) * 1024
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = RemoteFile("model.gguf", len(CONTENT), DIGEST, DIGEST)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    folder = tmp_path / "root" / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(CONTENT)
    (folder / "config.json").write_bytes(b"{}")
    with serving(tmp_path / "root") as server:
        yield server


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    return tmp_path / "blobs" / DIGEST


def receive(hub: ModelHub, blob: Path, file: RemoteFile = FILE, patience_s: float = 5.0) -> int:
    """Receive a file; return what the reported changes add up to."""
    changes: list[int] = []
    receiver = Receiver(lambda _name, change: changes.append(change), patience_s)
    receiver.receive(f"{hub.url}/org/name/resolve/{COMMIT}/{file.name}", file, blob)
    return sum(changes)


def ranges(hub: ModelHub) -> list[str | None]:
    return [asked for path, asked in hub.requests if path.startswith("/cdn/")]


def test_a_file_comes_in_whole(hub: ModelHub, blob: Path) -> None:
    assert receive(hub, blob) == len(CONTENT)
    assert blob.read_bytes() == CONTENT
    assert [path.name for path in blob.parent.iterdir()] == [DIGEST]


def test_a_cut_connection_is_taken_up_where_it_ended(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(cut_after=100_000, cuts=2)

    assert receive(hub, blob) == len(CONTENT)
    assert blob.read_bytes() == CONTENT
    assert ranges(hub)[0] is None
    assert ranges(hub)[1:] == ["bytes=100000-", "bytes=200000-"]


def test_what_an_earlier_try_left_is_not_asked_for_again(hub: ModelHub, blob: Path) -> None:
    blob.parent.mkdir()
    blob.with_name(f"{DIGEST}.incomplete").write_bytes(CONTENT[:200_000])
    assert bytes_here(blob) == 200_000

    assert receive(hub, blob) == len(CONTENT) - 200_000
    assert blob.read_bytes() == CONTENT
    assert ranges(hub) == ["bytes=200000-"]


def test_a_server_without_ranges_starts_over(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(cut_after=100_000, cuts=1, ignore_range=True)

    assert receive(hub, blob) == len(CONTENT)
    assert blob.read_bytes() == CONTENT


def test_patience_ends_and_what_came_in_is_kept(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(cut_after=0, cuts=1000)
    blob.parent.mkdir()
    blob.with_name(f"{DIGEST}.incomplete").write_bytes(CONTENT[:200_000])

    with pytest.raises(httpx2.TransportError):
        receive(hub, blob, patience_s=0.5)

    assert not blob.exists()
    assert bytes_here(blob) == 200_000


def test_a_refusal_is_not_tried_again(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(gated=True)

    with pytest.raises(HfHubHTTPError):
        receive(hub, blob)

    assert len(hub.requests) == 1


def test_an_overloaded_server_is_tried_again(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(status=503)

    with pytest.raises(HfHubHTTPError):
        receive(hub, blob, patience_s=0.5)

    assert len(hub.requests) > 1


def test_wrong_content_is_removed(hub: ModelHub, blob: Path) -> None:
    hub.faults = Faults(corrupt=True)

    with pytest.raises(DownloadError, match=f"not {DIGEST}; it was removed"):
        receive(hub, blob)

    assert list(blob.parent.iterdir()) == []


def test_more_than_was_announced_is_refused(hub: ModelHub, blob: Path) -> None:
    short = RemoteFile(FILE.name, 1000, DIGEST, DIGEST)

    with pytest.raises(DownloadError, match=r"more of model\.gguf than the 1000 bytes"):
        receive(hub, blob, short)

    assert not blob.exists()


def test_a_small_file_is_checked_by_its_git_digest(hub: ModelHub, blob: Path) -> None:
    digest = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()
    good = RemoteFile("config.json", 2, digest, digest)
    receive(hub, blob.with_name(digest), good)
    assert blob.with_name(digest).read_bytes() == b"{}"

    bad = RemoteFile("config.json", 2, "b" * 40, "b" * 40)
    with pytest.raises(DownloadError, match="has the digest"):
        receive(hub, blob.with_name("b" * 40), bad)


def test_a_file_that_another_tool_left_is_checked(hub: ModelHub, blob: Path) -> None:
    blob.parent.mkdir()
    blob.write_bytes(CONTENT)
    assert receive(hub, blob) == 0
    assert hub.requests == []

    blob.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match="it was removed"):
        receive(hub, blob)
    assert not blob.exists()


def test_two_processes_do_not_write_one_file(hub: ModelHub, blob: Path) -> None:
    blob.parent.mkdir()
    with blob.with_name(f"{DIGEST}.incomplete").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(DownloadError, match=r"Another process is downloading model\.gguf"):
            receive(hub, blob)

    assert receive(hub, blob) == len(CONTENT)
