"""Downloads from the model hub: pinned, resumable, verified, and only where they fit.

`huggingface_hub` finds the hub, the token and the errors; the bytes are received here,
because a download has to go on in another process where this one left off.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from llm_backend.config.catalog import HubWeights
from llm_backend.errors import DownloadError
from llm_backend.weights.receive import Receiver, RemoteFile, bytes_here
from llm_backend.weights.store import Store, VerifiedFile

_LISTING_TIMEOUT_S: Final = 20.0
_SPARE_BYTES: Final = 64 * 1024 * 1024
"""Left free beyond the download itself, so that a full disk never stops the rest."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_OTHER_FORMATS: Final = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download has come.

    Attributes:
        file: The file that is coming in.
        done: Bytes that are here, those of earlier tries included.
        total: Bytes of the whole download.
        bytes_per_s: Average since this try began.
    """

    file: str
    done: int
    total: int
    bytes_per_s: float


def fetch(
    weights: HubWeights,
    store: Store,
    on_progress: Callable[[DownloadProgress], None] = lambda _progress: None,
    *,
    endpoint: str | None = None,
    patience_s: float = 60.0,
) -> Path:
    """Bring weights here and return where they are; at once if they are here already.

    Blocks. The token comes from `HF_TOKEN` (or the one that `hf auth login` stored).

    Args:
        weights: What to fetch. Without a revision, the commit that the hub names is recorded
            and used from then on.
        store: Where to.
        on_progress: Called with every piece that came in (some 64 KiB), in this thread.
        endpoint: Address of the hub; by default `HF_ENDPOINT`, else the public one.
        patience_s: Seconds without a new byte after which a download that was cut is given up.

    Raises:
        DownloadError: says what is wrong and what to do. What came in is kept for the next
            try, unless its checksum is wrong.
    """
    present = store.locate(weights)
    if present is not None:
        return present
    hub = (endpoint or constants.ENDPOINT).rstrip("/")
    with _explained(weights, store, hub):
        wanted = _list(weights, store, hub)
        _check_disk(wanted, store)
        receiver = Receiver(_reporter(on_progress, wanted, store), patience_s)
        for file in wanted.files:
            _bring(file, wanted, store, receiver)
        verified = {file.name: VerifiedFile(file.size, file.digest) for file in wanted.files}
        store.remember_verified(weights.repo, wanted.commit, verified, whole=weights.file is None)
    return store.snapshot(weights.repo, wanted.commit) / (weights.file or "")


def file_names(
    weights: HubWeights, store: Store, *, endpoint: str | None = None
) -> tuple[str, ...]:
    """Return the names of all files that the hub has of a repository.

    Blocks.

    Raises:
        DownloadError: the hub does not answer, or refuses; says what to do.
    """
    hub = (endpoint or constants.ENDPOINT).rstrip("/")
    with _explained(weights, store, hub):
        info = HfApi(endpoint=hub).model_info(
            weights.repo, revision=store.revision(weights), timeout=_LISTING_TIMEOUT_S
        )
    return tuple(sibling.rfilename for sibling in info.siblings or ())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What has to be here in the end."""

    hub: str
    repo: str
    commit: str
    files: tuple[RemoteFile, ...]


def _list(weights: HubWeights, store: Store, hub: str) -> _Wanted:
    known = store.revision(weights)
    try:
        info = HfApi(endpoint=hub).model_info(
            weights.repo, revision=known, files_metadata=True, timeout=_LISTING_TIMEOUT_S
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # What the library makes of a page that a proxy or a captive portal shows.
        raise _no_hub(hub, str(error)) from error
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit) or known not in {None, commit}:
        raise _no_hub(hub, f"for {weights.repo} at {known or 'main'} it names {commit or None}")
    if known is None:
        store.remember_revision(weights.repo, commit)
    files = tuple(_remote_file(weights, sibling) for sibling in _choose(weights, info))
    return _Wanted(hub, weights.repo, commit, files)


def _choose(weights: HubWeights, info: ModelInfo) -> list[RepoSibling]:
    siblings = {s.rfilename: s for s in info.siblings or ()}
    if weights.file is None:
        return _without_duplicates(list(siblings.values()))
    names = [name for name in (weights.file, weights.companion) if name is not None]
    for name in names:
        if name not in siblings:
            alike = [n for n in siblings if PurePosixPath(n).suffix == PurePosixPath(name).suffix]
            raise DownloadError(
                f"{weights.repo} has no file {name} at revision {info.sha}.",
                hint=f"It has: {', '.join(sorted(alike)[:20]) or 'nothing of that kind'}.",
            )
    return [siblings[name] for name in names]


def _without_duplicates(siblings: list[RepoSibling]) -> list[RepoSibling]:
    """Leave out the same weights in other formats, which can double the download."""
    if not any(s.rfilename.endswith(".safetensors") for s in siblings):
        return siblings
    return [s for s in siblings if not s.rfilename.endswith(_OTHER_FORMATS)]


def _remote_file(weights: HubWeights, sibling: RepoSibling) -> RemoteFile:
    name = sibling.rfilename
    pinned = {weights.file: weights.sha256, weights.companion: weights.companion_sha256}.get(name)
    announced = sibling.lfs.sha256 if sibling.lfs is not None else None
    blob = announced or sibling.blob_id or ""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or sibling.size is None or not _is_digest(blob):
        raise DownloadError(f"The hub describes the file {name!r} of {weights.repo} wrongly.")
    if pinned and announced and pinned != announced:
        raise DownloadError(
            f"{name} of {weights.repo} has the SHA-256 {announced} on the hub, "
            f"and the catalog says {pinned}.",
            hint="Check `revision` and `sha256` of the model in the catalog.",
        )
    return RemoteFile(name, sibling.size, blob, pinned or blob)


def _is_digest(value: str) -> bool:
    return bool(_SHA256.fullmatch(value) or _COMMIT.fullmatch(value))


def _bring(file: RemoteFile, wanted: _Wanted, store: Store, receiver: Receiver) -> None:
    blob = store.repository(wanted.repo) / "blobs" / file.blob
    url = f"{wanted.hub}/{wanted.repo}/resolve/{wanted.commit}/{quote(file.name)}"
    receiver.receive(url, file, blob)
    pointer = store.snapshot(wanted.repo, wanted.commit) / file.name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))


def _reporter(
    on_progress: Callable[[DownloadProgress], None], wanted: _Wanted, store: Store
) -> Callable[[str, int], None]:
    """Return what turns "so many bytes more (or fewer) of a file" into progress of it all."""
    total = sum(file.size for file in wanted.files)
    here = done = _bytes_here(wanted, store)
    began = time.monotonic()

    def report(file: str, change: int) -> None:
        nonlocal done
        done += change
        elapsed = max(time.monotonic() - began, 1e-6)
        on_progress(DownloadProgress(file, done, total, max(0, done - here) / elapsed))

    return report


def _bytes_here(wanted: _Wanted, store: Store) -> int:
    blobs = store.repository(wanted.repo) / "blobs"
    return sum(min(bytes_here(blobs / file.blob), file.size) for file in wanted.files)


def _check_disk(wanted: _Wanted, store: Store) -> None:
    need = sum(file.size for file in wanted.files) - _bytes_here(wanted, store)
    place = next(p for p in (store.models_dir, *store.models_dir.parents) if p.exists())
    have = shutil.disk_usage(place).free
    short = need + _SPARE_BYTES - have
    if need > 0 and short > 0:
        raise DownloadError(
            f"{wanted.repo} needs {_shown(need)} in {store.models_dir}, "
            f"where {_shown(have)} are free.",
            hint=f"Free {_shown(short)} there, or set `models_dir` to a larger disk.",
        )


def _shown(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{-(-size // 1024**2)} MiB"


@contextmanager
def _explained(weights: HubWeights, store: Store, hub: str) -> Iterator[None]:
    """Turn what can go wrong on the way into errors that say what to do."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, so {weights.repo} cannot be fetched.",
            hint="Unset it and try again.",
        ) from None
    except RevisionNotFoundError as error:
        raise _no_revision(weights, store, hub) from error
    except HfHubHTTPError as error:
        raise _refusal(weights, hub, error) from error
    except httpx2.TransportError as error:
        raise DownloadError(
            f"The model hub at {hub} cannot be reached: {error or type(error).__name__}.",
            hint="Check the network, or name a mirror in HF_ENDPOINT.",
        ) from error
    except OSError as error:
        raise _local_trouble(weights, error) from error


def _no_hub(hub: str, reason: str) -> DownloadError:
    return DownloadError(
        f"{hub} does not answer like a model hub: {reason}.",
        hint="Check HF_ENDPOINT and the proxy settings.",
    )


def _no_revision(weights: HubWeights, store: Store, hub: str) -> DownloadError:
    hint = "Check `revision` in the catalog."
    if weights.revision is None:
        hint = f"It was recorded; remove {store.revision_file(weights.repo)} to take the newest."
    return DownloadError(
        f"{hub} has no revision {store.revision(weights)} of {weights.repo}.", hint=hint
    )


def _refusal(weights: HubWeights, hub: str, error: HfHubHTTPError) -> DownloadError:
    status, repo = error.response.status_code, weights.repo
    if isinstance(error, GatedRepoError) or status == 403:
        return DownloadError(
            f"{repo} is gated: {hub} refuses it to this account ({status}).",
            hint=f"Accept its terms at {hub}/{repo} and set HF_TOKEN to a token of that account.",
        )
    if status == 401:
        return DownloadError(
            f"{hub} refuses {repo} ({status}): it is private, gated, or does not exist.",
            hint="Check the name, or set HF_TOKEN to a token that may read it.",
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return DownloadError(
            f"{hub} has no {repo} ({status}).", hint="Check the name: it is `repo` in the catalog."
        )
    return DownloadError(
        f"{hub} answers {status} for {repo}.", hint="Try again later: what came in is kept."
    )


def _local_trouble(weights: HubWeights, error: OSError) -> DownloadError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DownloadError(
            f"The disk became full while {weights.repo} came in ({error.strerror}).",
            hint="Free some space and try again: what came in is kept.",
        )
    return DownloadError(f"{weights.repo} cannot be stored: {error}.")
