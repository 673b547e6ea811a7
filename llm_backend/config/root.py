"""Where the project is: the directory that holds `config/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from llm_backend.errors import ConfigError

ROOT_VARIABLE: Final = "LLM_BACKEND_ROOT"
MARK: Final = Path("config") / "models.yaml"
"""What a directory must hold to be the root of a project."""

_SHIPPED: Final = Path(__file__).with_name("shipped")
"""The root inside an installed package; a checkout has none and is its own."""


def find_root(environ: Mapping[str, str], cwd: Path) -> Path:
    """Return the directory that holds `config/`.

    In this order: `LLM_BACKEND_ROOT`, the current directory and those above it, the checkout
    that this package was loaded from, what comes with the package.

    Raises:
        ConfigError: none of them holds `config/models.yaml`.
    """
    named = environ.get(ROOT_VARIABLE)
    if named:
        return _named_root(Path(named).expanduser())
    own = Path(__file__).resolve().parents[2]
    for directory in (cwd, *cwd.parents, own, _SHIPPED):
        if (directory / MARK).is_file():
            return directory
    raise ConfigError(
        f"No {MARK} in {cwd}, nor in a directory above it.",
        hint=f"Go to the checkout of llm-backend, or set {ROOT_VARIABLE} to its path.",
    )


def _named_root(root: Path) -> Path:
    if (root / MARK).is_file():
        return root.resolve()
    raise ConfigError(
        f"{ROOT_VARIABLE} is {str(root)!r}, and there is no {MARK} in it.",
        hint=f"Set it to the checkout of llm-backend: the directory that holds {MARK.parent}/.",
    )
