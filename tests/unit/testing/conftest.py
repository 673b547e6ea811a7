from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.testing.program import Program


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    programs: list[Program] = []

    def start(*flags: str, ready: bool = True) -> Program:
        folder = tmp_path / f"program-{len(programs)}"
        folder.mkdir()
        programs.append(Program(folder / "journal", *flags, ready=ready))
        return programs[-1]

    yield start
    for program in programs:
        program.close()
