"""Two coroutines side by side, neither of which outlives the other's use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

One = TypeVar("One")
Other = TypeVar("Other")


@contextlib.asynccontextmanager
async def racing(
    one: Coroutine[Any, Any, One], other: Coroutine[Any, Any, Other]
) -> AsyncIterator[tuple[asyncio.Task[One], asyncio.Task[Other]]]:
    """Run two coroutines while the block runs; both are over when it ends."""
    tasks = (asyncio.create_task(one), asyncio.create_task(other))
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
