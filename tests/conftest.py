"""Fixtures for every tier.

anyio_backend: asyncio, the loop that the gateway runs on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog


def pytest_configure() -> None:
    """Leave the size of whatever terminal this runs on to that terminal: readline tells children."""
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Have no test log to where an earlier one has set the logs up to go."""
    yield
    structlog.reset_defaults()
