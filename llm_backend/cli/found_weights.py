"""What a person means by a path or a repository: which weights, and which file of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from llm_backend.config.catalog import HubWeights, PathWeights
from llm_backend.errors import SetupError
from llm_backend.weights.store import Store

PRECISIONS: Final = {
    "4bit": ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4"),
    "8bit": ("Q8_0", "Q8"),
    "none": ("BF16", "F16", "F32"),
}
"""How the names of GGUF files say what was done to the weights, the best of each first."""

_REPO: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+\.gguf))?")
_MAGIC: Final = b"GGUF"
_PART: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """Weights, and what clients call the model.

    Attributes:
        name: The repository, or the name of the file or directory.
        weights: Where they are, or where they come from.
        is_gguf: Whether they are a GGUF file.
    """

    name: str
    weights: HubWeights | PathWeights
    is_gguf: bool


def find_weights(source: str, precision: str | None, store: Store) -> FoundWeights:
    """Return the weights that a path or a repository stands for.

    Asks the model hub, unless a file is named or what is wanted is here already.

    Args:
        source: A GGUF file, a directory, `OWNER/NAME` or `OWNER/NAME/FILE.gguf`.
        precision: `4bit`, `8bit` or `none`: which GGUF file to take where there are several.
        store: Knows what is here.

    Raises:
        SetupError: there is nothing of that name, or nothing that an engine can run.
        DownloadError: the hub does not answer, or refuses.
    """
    try:
        path = Path(source).expanduser().absolute()
        if path.exists():
            return _at_path(path, precision)
        is_file = _is_meant_as_file(path, source)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        raise SetupError(f"{source:.200} cannot be read: {_reason(error)}.") from None
    match = _REPO.fullmatch(source)
    if match is None or is_file:
        raise SetupError(
            f"There is nothing at {source:.200}, and it is no repository either.",
            hint="Name a GGUF file, a directory with config.json, or OWNER/NAME of the model hub.",
        )
    repo, file = match.groups()
    return _in_repository(repo, file, precision, store)


def _is_meant_as_file(path: Path, source: str) -> bool:
    """Return whether somebody who names what is not there cannot mean a repository."""
    return (
        source.startswith((".", "~"))
        or path.is_symlink()
        or (source.count("/") == 1 and source.endswith(".gguf") and path.parent.is_dir())
    )


def _reason(error: OSError | RuntimeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")


def _at_path(path: Path, precision: str | None) -> FoundWeights:
    if not path.is_dir():
        return _gguf(path, path.stem)
    if (path / "config.json").is_file():
        return FoundWeights(path.name, PathWeights(source="path", path=str(path)), is_gguf=False)
    file = choose([entry.name for entry in path.iterdir()], precision, str(path))
    return _gguf(path / file, path.name)


def _gguf(path: Path, name: str) -> FoundWeights:
    if path.suffix != ".gguf" or not path.is_file() or not _begins_as_gguf(path):
        raise SetupError(
            f"{path} is no GGUF file.",
            hint="Name a GGUF file, or the directory that has config.json.",
        )
    return FoundWeights(name, PathWeights(source="path", path=str(path)), is_gguf=True)


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _in_repository(
    repo: str, file: str | None, precision: str | None, store: Store
) -> FoundWeights:
    whole = HubWeights(source="hub", repo=repo)
    names = store.files(repo)
    if store.locate(whole) is None and not _has(names, file, precision):
        from llm_backend.weights import hub  # noqa: PLC0415  # its libraries cost half a second

        names = hub.file_names(whole, store)
    if file is None and "config.json" in names and not _ggufs(names):
        return FoundWeights(repo, whole, is_gguf=False)
    file = file or choose(names, precision, repo)
    companion = _projector(names)
    weights = HubWeights(source="hub", repo=repo, file=file, companion=companion)
    return FoundWeights(repo, weights, is_gguf=True)


def _has(names: Sequence[str], file: str | None, precision: str | None) -> bool:
    """Return whether the files that are here hold the one that is wanted."""
    if file is not None:
        return file in names
    wanted = PRECISIONS[precision or "4bit"]
    return any(word in name.upper() for name in _ggufs(names) for word in wanted)


def choose(names: Sequence[str], precision: str | None, where: str) -> str:
    """Return the GGUF file to take: the only one, else the best of the precision asked for.

    Args:
        names: All files that are there.
        precision: `4bit`, `8bit` or `none`; None takes the only file, else 4 bits.
        where: What they are files of, for messages.

    Raises:
        SetupError: there is none; says which there are.
    """
    files = _ggufs(names)
    if not files:
        raise SetupError(
            f"{where} has neither a config.json nor a whole GGUF file.",
            hint="vLLM runs what has a config.json, llama.cpp runs a GGUF file in one part.",
        )
    if len(files) == 1 and precision is None:
        return files[0]
    for word in PRECISIONS[precision or "4bit"]:
        for file in files:
            if word in file.upper():
                return file
    raise SetupError(
        f"{where} has no GGUF file of the precision {precision or '4bit'}.",
        hint=f"Name one of these: {', '.join(f'{where}/{file}' for file in files[:20])}",
    )


def _ggufs(names: Sequence[str]) -> list[str]:
    return sorted(
        name
        for name in names
        if name.endswith(".gguf") and not _PART.search(name) and not _is_projector(name)
    )


def _projector(names: Sequence[str]) -> str | None:
    """Return what turns images into tokens; the smallest loss of precision that is usual."""
    found = sorted(name for name in names if name.endswith(".gguf") and _is_projector(name))
    return next((n for w in ("BF16", "F16", "Q8_0") for n in found if w in n.upper()), None) or (
        found[0] if found else None
    )


def _is_projector(name: str) -> bool:
    return PurePosixPath(name).name.lower().startswith("mmproj")
