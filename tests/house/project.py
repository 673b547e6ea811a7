"""The working tree as the house rules see it: files, parsed modules, pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Project:
    """One checkout."""

    root: Path
    _texts: dict[Path, str] = field(default_factory=dict, repr=False)

    @cached_property
    def files(self) -> list[Path]:
        """Every file that belongs to the project, as git sees it: tracked, or new and not ignored."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=self.root, capture_output=True, check=True).stdout
        paths = (self.root / name for name in listed.decode().split("\0") if name)
        return sorted(path for path in paths if path.is_file())

    def under(self, *folders: str, suffix: str = ".py") -> list[Path]:
        """Return the files of these top folders whose name ends with `suffix`."""
        return [
            path
            for path in self.files
            if path.relative_to(self.root).parts[0] in folders and path.name.endswith(suffix)
        ]

    def text(self, path: Path) -> str:
        """Return the text of a file; bytes that are no UTF-8 are replaced."""
        if path not in self._texts:
            self._texts[path] = path.read_text(encoding="utf-8", errors="replace")
        return self._texts[path]

    def tree(self, path: Path) -> ast.Module:
        """Return the parsed module."""
        return ast.parse(self.text(path), filename=str(path))

    def name(self, path: Path) -> str:
        """Return a path as people write it, from the root of the tree."""
        return path.relative_to(self.root).as_posix()

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        """Return pyproject.toml."""
        return tomllib.loads(self.text(self.root / "pyproject.toml"))


def no_findings(found: Iterable[str]) -> None:
    """Fail with everything that was found, a line each."""
    lines = sorted(found)
    assert not lines, "\n" + "\n".join(lines)
