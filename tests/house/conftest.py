"""What the house rules are checked against.

project: the working tree: its files, the parsed modules of the package, and pyproject.toml.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.project import Project


@pytest.fixture(scope="session")
def project() -> Project:
    return Project(Path(__file__).resolve().parents[2])
