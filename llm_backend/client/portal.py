"""An event loop on a thread of its own, for those who have none or must not block theirs."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from llm_backend.errors import ConnectionFailed

T = TypeVar("T")

_START_S: Final = 30.0
_STOP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Life:
    """A running loop and its thread."""

    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    def end(self) -> None:
        if not self.thread.is_alive():  # as after a fork
            return
        with suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self.stop.set)
        if threading.current_thread() is not self.thread:  # the collector runs on any thread
            self.thread.join(_STOP_S)


class _Call(Generic[T]):
    """A coroutine that runs on the loop of a portal.

    Attributes:
        answer: Done when the coroutine has ended, also where it was cancelled.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.answer: Future[T] = Future()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        """Run it; on the loop."""
        self._task = asyncio.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """End it; on the loop, after `start`."""
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.answer.set_exception(ConnectionFailed("The client was closed while it waited."))
        elif (error := task.exception()) is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(task.result())


class Portal:
    """Runs coroutines on a thread that starts with the first one; for many threads at once.

    The thread ends with `close`, with the portal itself, or with the program.

    Args:
        held: Entered when the thread starts, left when it ends.
    """

    def __init__(self, held: AbstractAsyncContextManager[object]) -> None:
        self._held = held
        self._lock = threading.Lock()
        self._life: _Life | None = None
        self._finalizer: weakref.finalize[..., Portal] | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return what it returns.

        An interrupt of the caller (Ctrl-C) cancels it, and is raised when it has ended.

        Raises:
            ConnectionFailed: the portal was closed meanwhile.
            RuntimeError: called from a callback on the portal's own thread.
        """
        asked = _Call(coroutine)
        try:
            with self._lock:  # a loop that `close` has told to stop would never start it
                loop = self._running().loop
                loop.call_soon_threadsafe(asked.start)
        except BaseException:
            coroutine.close()
            raise
        try:
            return asked.answer.result()
        finally:
            if not asked.answer.done():
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(asked.cancel)
                wait([asked.answer], _STOP_S)

    def close(self) -> None:
        """End the thread and what it holds; a later call starts another one."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._life = self._finalizer = None

    def _running(self) -> _Life:
        life = self._life
        if life is None or not life.thread.is_alive():
            life = self._life = _start(self._held)
            self._finalizer = weakref.finalize(self, life.end)
        if life.thread is threading.current_thread():
            raise RuntimeError("A callback must not call the client that it was called by.")
        return life


def _start(held: AbstractAsyncContextManager[object]) -> _Life:
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(
        target=_run, args=(held, ready), name="llm-backend-client", daemon=True
    )
    thread.start()
    return _Life(thread, *ready.result(_START_S))


def _run(
    held: AbstractAsyncContextManager[object],
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    life = _live(held, ready)
    try:
        asyncio.run(life)
    except Exception as error:  # as where the process has too many open files for a loop
        life.close()
        if ready.done():
            raise
        ready.set_exception(error)


async def _live(
    held: AbstractAsyncContextManager[object],
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    stop = asyncio.Event()
    async with held:
        ready.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
