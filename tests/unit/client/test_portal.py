"""A loop on a thread: it starts when needed, ends when told, and hands out what happens in it."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
from collections.abc import Iterator

import pytest

from llm_backend import ConnectionFailed
from llm_backend.client.portal import Portal

pytestmark = pytest.mark.feature("LLMClientSync")


class Held:
    """Counts who entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0
        self.is_broken = False

    async def __aenter__(self) -> None:
        if self.is_broken:
            raise ValueError("the proxy is no address")
        self.entered += 1

    async def __aexit__(self, *_: object) -> None:
        self.left += 1


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def portal(held: Held) -> Iterator[Portal]:
    portal = Portal(held)
    yield portal
    portal.close()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def thread_name() -> str:
    return threading.current_thread().name


def test_it_starts_with_the_first_call_and_ends_with_close(held: Held, portal: Portal) -> None:
    before = threading.active_count()
    assert portal.call(double(4)) == 8
    assert portal.call(thread_name()) == "llm-backend-client"
    assert (held.entered, held.left) == (1, 0)
    assert threading.active_count() == before + 1
    portal.close()
    assert (held.entered, held.left) == (1, 1)
    assert threading.active_count() == before


def test_after_close_it_starts_anew(held: Held, portal: Portal) -> None:
    portal.close()
    assert portal.call(double(1)) == 2
    portal.close()
    portal.close()
    assert portal.call(double(2)) == 4
    assert (held.entered, held.left) == (2, 1)


def test_it_ends_when_nobody_has_it_any_more(held: Held) -> None:
    portal = Portal(held)
    portal.call(double(1))
    del portal
    gc.collect()
    assert held.left == 1


def test_what_is_raised_inside_is_raised_outside(portal: Portal) -> None:
    async def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        portal.call(fail())


def test_many_threads_at_once(held: Held, portal: Portal) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(portal.call(double(n))))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == [2 * n for n in range(20)]
    assert held.entered == 1


def test_close_ends_a_call_that_waits(portal: Portal) -> None:
    waiting, outcome = threading.Event(), []

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            portal.call(wait())
        except ConnectionFailed as error:
            outcome.append(error.message)

    thread = threading.Thread(target=call)
    thread.start()
    assert waiting.wait(10)
    portal.close()
    thread.join(10)
    assert outcome == ["The client was closed while it waited."]


def test_a_callback_that_would_wait_for_itself_is_told(portal: Portal) -> None:
    async def callback() -> int:
        return portal.call(double(1))

    with pytest.raises(RuntimeError, match="callback must not call"):
        portal.call(callback())


def test_what_cannot_be_entered_is_told(held: Held, portal: Portal) -> None:
    held.is_broken = True
    with pytest.raises(ValueError, match="no address"):
        portal.call(double(1))
    held.is_broken = False
    assert portal.call(double(1)) == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_starts_its_own(portal: Portal) -> None:
    portal.call(double(1))
    child = os.fork()
    if child == 0:
        os._exit(portal.call(double(3)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6


@pytest.mark.filterwarnings(
    "ignore:.*BaseEventLoop.__del__:pytest.PytestUnraisableExceptionWarning"
)
def test_a_loop_that_cannot_be_made_is_told_at_once(portal: Portal) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            portal.call(double(1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for thread in threading.enumerate():
        if thread.name == "llm-backend-client":
            thread.join(10)
    gc.collect()  # what asyncio leaves of the half-made loop
    assert portal.call(double(1)) == 2
