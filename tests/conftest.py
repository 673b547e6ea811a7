"""Fixtures for every tier.

anyio_backend: asyncio, the loop that the gateway runs on.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
