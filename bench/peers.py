"""Gateways out of Python packages: each in an environment of its own, made once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import Missing
from bench.programs import cache_dir

MARK = "installed"
INSTALL_S = 1800


def environment(name: str, *requirements: str) -> Path:
    """Return the `bin` of an environment that has a package.

    Args:
        name: Directory in the cache.
        requirements: What to install; where that fails, the next one is tried.

    Raises:
        Missing: none of them can be installed.
    """
    place = cache_dir() / name
    marks = {requirement: place / f"{MARK}-{_slug(requirement)}" for requirement in requirements}
    if any(mark.exists() for mark in marks.values()):
        return place / "bin"
    complaint = ""
    for requirement, mark in marks.items():
        complaint = _install(place, requirement)
        if not complaint:
            mark.touch()
            return place / "bin"
    raise Missing(f"{requirements[-1]} cannot be installed: {complaint}")


def version(programs: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    said = subprocess.run(
        [str(programs / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


def _install(place: Path, requirement: str) -> str:
    """Install into a fresh environment; return what went wrong, if anything did."""
    print(f"Installing {requirement} into {place} ...", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    for command in _commands(place, requirement):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            return lines[-1]
    return ""


def _commands(place: Path, requirement: str) -> Sequence[Sequence[str]]:
    python = str(place / "bin" / "python")
    beside = Path(sys.executable).with_name("uv")
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is None:
        return (
            [sys.executable, "-m", "venv", str(place)],
            [python, "-m", "pip", "install", "--quiet", requirement],
        )
    return (
        [uv, "venv", "--quiet", "--python", sys.executable, str(place)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, requirement],
    )


def _slug(requirement: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in requirement)
