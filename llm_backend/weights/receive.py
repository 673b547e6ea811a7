"""Receives one file over HTTP: goes on after a cut, verifies, and only then gives it its name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported without __all__
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from llm_backend.errors import DownloadError

_BLOCK: Final = 1024 * 1024
_TIMEOUT: Final = httpx2.Timeout(20.0)
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: Its path in the repository.
        size: Bytes.
        blob: Its name in the cache: the digest that the hub goes by.
        digest: What its content must have: a SHA-256, or git's SHA-1 of a small file.
    """

    name: str
    size: int
    blob: str
    digest: str


def bytes_here(blob: Path) -> int:
    """Return how many bytes of a blob are here, of a part of it too."""
    for path in (blob, _partial(blob)):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


class Receiver:
    """Brings files in, one at a time.

    Args:
        report: Told the name of the file and by how many bytes what is here changed.
        patience_s: Seconds without a new byte after which a file is given up.
    """

    def __init__(self, report: Callable[[str, int], None], patience_s: float) -> None:
        self._report = report
        self._patience_s = patience_s

    def receive(self, url: str, file: RemoteFile, blob: Path) -> None:
        """Bring a file in under the name `blob`, which it gets only once it is verified.

        Raises:
            DownloadError: another process is at it, or the content is wrong.
            HfHubHTTPError: the hub refuses it.
            httpx2.TransportError: the connection was cut, and patience ran out.
            OSError: it cannot be written.
        """
        partial = _partial(blob)
        with _locked(partial, file) as handle:
            # Looked at under the lock: the process that had it before may have been faster.
            if blob.exists():
                partial.unlink(missing_ok=True)
                with blob.open("rb") as whole:
                    _check(_Arrived(whole, file), blob)
                return
            arrived = _Arrived(handle, file)
            self._fill(url, file, arrived)
            _check(arrived, partial)
            os.fsync(handle.fileno())
            partial.replace(blob)

    def _fill(self, url: str, file: RemoteFile, arrived: _Arrived) -> None:
        """Ask for the rest again and again, until it is all here or patience runs out."""
        pause, deadline = _FIRST_PAUSE_S, time.monotonic() + self._patience_s
        self._report(file.name, 0)
        while arrived.size < file.size:
            before = arrived.size
            try:
                self._take_rest(url, file, arrived)
            except (httpx2.TransportError, HfHubHTTPError) as error:
                if not _passes(error):
                    raise
                if arrived.size > before:
                    pause, deadline = _FIRST_PAUSE_S, time.monotonic() + self._patience_s
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _take_rest(self, url: str, file: RemoteFile, arrived: _Arrived) -> None:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if arrived.size:
            headers["Range"] = f"bytes={arrived.size}-"
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
            hf_raise_for_status(response)
            if arrived.size and not _continues(response, arrived.size):
                self._report(file.name, -arrived.size)
                arrived.clear()
            # As the pieces come: what a larger buffer holds at a cut would be lost.
            for chunk in response.iter_bytes():
                arrived.add(chunk)
                self._report(file.name, len(chunk))
        if arrived.size < file.size:
            raise httpx2.RemoteProtocolError(f"{file.name} ended after {arrived.size} bytes")


class _Arrived:
    """The bytes of a file that are here, and their digest so far."""

    def __init__(self, handle: BinaryIO, file: RemoteFile) -> None:
        self._handle = handle
        self.file = file
        self._start()
        handle.seek(0)
        while chunk := handle.read(_BLOCK):
            self._hash.update(chunk)
            self.size += len(chunk)

    def _start(self) -> None:
        self.size = 0
        self._hash = _hasher(self.file)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def add(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self.file.size:
            raise DownloadError(
                f"The hub sends more of {self.file.name} than the {self.file.size} bytes that "
                "it announced."
            )
        self._handle.write(chunk)
        self._handle.flush()
        self._hash.update(chunk)
        self.size += len(chunk)

    def clear(self) -> None:
        self._handle.truncate(0)
        self._start()


def _hasher(file: RemoteFile) -> hashlib._Hash:
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _check(arrived: _Arrived, path: Path) -> None:
    """Remove a file whose content is wrong: what stays is whole, or a part that can go on."""
    if arrived.digest == arrived.file.digest:
        return
    path.unlink()
    raise DownloadError(
        f"What came in as {arrived.file.name} has the digest {arrived.digest}, "
        f"not {arrived.file.digest}; it was removed.",
        hint="Try again; if it stays so, check `sha256` and `revision` in the catalog.",
    )


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Return whether the answer starts where the last one ended."""
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    return response.status_code == 206 and start == str(offset)


def _passes(error: httpx2.TransportError | HfHubHTTPError) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return True


@contextmanager
def _locked(partial: Path, file: RemoteFile) -> Iterator[BinaryIO]:
    """Open a part file for appending, for one process at a time."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a+b") as handle:
        try:
            # The lock is on the inode and goes with the process, however it ends.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f"Another process is downloading {file.name} just now.",
                hint="Wait for it, then type the same command again.",
            ) from None
        yield handle
