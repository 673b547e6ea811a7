"""Two coroutines side by side."""

from __future__ import annotations

import asyncio

import pytest

from llm_backend.switching.racing import racing

pytestmark = pytest.mark.anyio


async def test_both_run_and_are_over_when_the_block_ends() -> None:
    over: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.append("waited")

    async def answer() -> int:
        return 3

    async with racing(wait(), answer()) as (waiting, answering):
        assert await answering == 3
        assert not waiting.done()

    assert waiting.cancelled()
    assert over == ["waited"]


async def test_they_are_over_when_the_block_fails() -> None:
    with pytest.raises(KeyError):
        async with racing(asyncio.Event().wait(), asyncio.Event().wait()) as tasks:
            raise KeyError

    assert all(task.cancelled() for task in tasks)
