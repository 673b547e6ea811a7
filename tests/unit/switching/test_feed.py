"""What happens is told to everybody, in order; slow readers lose the oldest news, nobody else."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from llm_backend.switching.feed import Feed, Notice

pytestmark = pytest.mark.anyio


def test_listeners_are_told_in_order_while_they_listen() -> None:
    feed, told = Feed(), []
    with feed.listening(told.append):
        feed.publish("step", step="load")
        feed.publish("state", state="awake")
    feed.publish("step", step="unheard")
    assert told == [Notice("step", {"step": "load"}), Notice("state", {"state": "awake"})]


def test_a_listener_that_leaves_while_it_is_told() -> None:
    feed, told = Feed(), []
    with feed.listening(lambda _: one.__exit__(None, None, None)):
        one = feed.listening(told.append)
        one.__enter__()
        feed.publish("step", step="last")
        feed.publish("step", step="unheard")
    assert [notice.data["step"] for notice in told] == ["last"]


async def test_a_reader_gets_what_came_while_it_was_busy() -> None:
    feed = Feed()
    with feed.subscribed() as subscription:
        for number in range(3):
            feed.publish("step", step=number)
        assert [(await subscription.next(1)).data["step"] for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]  # there are three
        assert await subscription.next(0.001) is None


async def test_a_reader_that_waits_is_woken() -> None:
    feed = Feed()
    with feed.subscribed() as subscription:
        waiting = asyncio.create_task(subscription.next(20))
        await asyncio.sleep(0)
        feed.publish("step", step="load")
        assert await waiting == Notice("step", {"step": "load"})


async def test_readers_are_counted_while_they_read() -> None:
    feed = Feed()
    with feed.listening(print), feed.subscribed():
        with contextlib.suppress(ZeroDivisionError), feed.subscribed():
            assert feed.readers == 2
            raise ZeroDivisionError
        assert feed.readers == 1
    assert feed.readers == 0


async def test_a_slow_reader_loses_the_oldest() -> None:
    feed = Feed()
    with feed.subscribed(keep=2) as slow, feed.subscribed() as quick:
        for number in range(5):
            feed.publish("step", step=number)
        assert slow.lost == 3
        assert quick.lost == 0
        assert await slow.next(1) == Notice("step", {"step": 3})


async def test_a_reader_can_be_iterated() -> None:
    feed = Feed()
    with feed.subscribed() as subscription:
        feed.publish("step", step="load")
        async for notice in subscription:
            assert notice.data["step"] == "load"
            break
