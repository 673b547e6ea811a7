"""`llm-backend top`: what the gateway does, as it does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import httpx2
import typer
from rich.live import Live

from llm_backend.cli.control import (
    ANSWER_S,
    RunRecord,
    admin_headers,
    find_gateway,
    plain_transport_errors,
    require_gateway,
)
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import open_project
from llm_backend.cli.snapshot import Snapshot, rates, take
from llm_backend.cli.terminal import Terminal
from llm_backend.cli.top_view import Scene
from llm_backend.errors import LLMBackendError
from llm_backend.wire import JSONObject, decode_object

PACE_S: Final = 1.0
"""How often everything is asked for; what happens in between is told by the gateway."""

FRAME_S: Final = 0.25
"""How often it is drawn, so that times go on."""

RETRY_S: Final = 0.5
"""How long after a failure the gateway is looked for again."""

SILENCE_S: Final = 5.0
"""A gateway that takes longer than this for an answer counts as lost."""

MOMENTS: Final = 6
"""Rates are those between the first and the last of so many moments."""

QUIT: Final = frozenset(b"qQ\x04")


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once, as plain text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch what the gateway does.

    Who holds the device and its memory, every model with its requests and tokens in a second,
    the queue, the running switch, the last switches. The key q quits. Without a terminal, or
    with --once or --json, it is told once; that takes a second, because of the rates.
    """
    terminal = Terminal(as_json=as_json)
    state_dir = open_project().state_dir
    record = require_gateway(state_dir)
    if once or not terminal.interactive:
        _tell_once(terminal, record, state_dir)
    else:
        asyncio.run(_watch(terminal, Follower(record, state_dir)))


def _tell_once(terminal: Terminal, record: RunRecord, state_dir: Path) -> None:
    with plain_transport_errors(record, ANSWER_S):
        moments = asyncio.run(_two_moments(record, state_dir))
    pace, last = rates(moments), moments[-1]
    if terminal.as_json:
        told = {"health": last.health, "status": last.status, "history": last.history}
        paces = {model: asdict(rate) for model, rate in pace.items()}
        terminal.result({"running": True, "url": record.url, **told, "rates": paces})
        return
    with terminal.out.capture() as drawn:
        terminal.out.print(Scene(record.url, record.setup, last, pace))
    for line in drawn.get().splitlines():
        print(line.rstrip())


async def _two_moments(record: RunRecord, state_dir: Path) -> list[Snapshot]:
    async with _client(record, state_dir) as http:
        first = await take(http)
        await asyncio.sleep(PACE_S)
        return [first, await take(http)]


def _client(record: RunRecord, state_dir: Path) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=record.url,
        headers=admin_headers(state_dir),
        timeout=httpx2.Timeout(SILENCE_S),
        trust_env=False,
    )


class Follower:
    """Keeps up with a gateway, and finds it again after a restart.

    Args:
        record: The gateway, as it was found.
        state_dir: Where the next one leaves its record.
    """

    def __init__(self, record: RunRecord, state_dir: Path) -> None:
        self._record = record
        self._state_dir = state_dir
        self._moments: deque[Snapshot] = deque(maxlen=MOMENTS)
        self._stages: dict[str, float] = {}
        self._lost_at: float | None = None
        self._why = ""
        self._news = asyncio.Event()

    @property
    def scene(self) -> Scene:
        """What is known now."""
        now, last = time.monotonic(), self._moments[-1] if self._moments else None
        lost_s = None if self._lost_at is None else now - self._lost_at
        return Scene(
            url=self._record.url,
            setup=self._record.setup,
            snapshot=last,
            rates=rates(self._moments),
            age_s=now - last.at if last is not None and lost_s is None else 0.0,
            stages=self._stages,
            lost_s=lost_s,
            why=self._why,
        )

    async def follow(self) -> None:
        """Keep up until it is cancelled."""
        while True:
            try:
                await self._follow(self._record)
            except (httpx2.HTTPError, LLMBackendError) as error:
                self._lose(error)
            await asyncio.sleep(RETRY_S)
            found = await asyncio.to_thread(find_gateway, self._state_dir)
            if found is not None:
                self._record = found

    def _lose(self, error: Exception) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        self._why = error.message if isinstance(error, LLMBackendError) else "it does not answer."

    async def _follow(self, record: RunRecord) -> None:
        async with _client(record, self._state_dir) as http:
            listening = asyncio.create_task(self._listen(http))
            try:
                while not listening.done():
                    self._keep(await take(http))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PACE_S):
                            await self._news.wait()
                    self._news.clear()
            finally:
                listening.cancel()
                await asyncio.wait({listening})
        if not listening.cancelled() and (error := listening.exception()) is not None:
            raise error

    def _keep(self, snapshot: Snapshot) -> None:
        if self._lost_at is not None:
            self._moments.clear()  # another gateway counts from nothing
            self._lost_at = None
        self._moments.append(snapshot)

    async def _listen(self, http: httpx2.AsyncClient) -> None:
        """Note the stages of a switch, and wake up whoever asks when something happens."""
        quiet = httpx2.Timeout(SILENCE_S, read=None)
        async with http.stream("GET", "/events", timeout=quiet) as response:
            async for event in httpx2.EventSource(response):
                self._note(event.event, decode_object(event.data.encode()))
                self._news.set()

    def _note(self, kind: str, data: JSONObject) -> None:
        if kind == "switch" and data.get("outcome") is None:
            self._stages = {}
        stage, _, how = str(data.get("step", "")).rpartition("_")
        if kind == "step" and how == "done":
            self._stages[stage] = float(data.get("elapsed_s") or 0.0)


async def _watch(terminal: Terminal, follower: Follower) -> None:
    quit_asked = asyncio.Event()
    following = asyncio.create_task(follower.follow())
    try:
        with (
            _keys(quit_asked),
            Live(console=terminal.out, screen=True, auto_refresh=False) as live,
        ):
            async for _ in _frames(quit_asked):
                if following.done():
                    following.result()  # a defect: it never ends by itself
                live.update(follower.scene, refresh=True)
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _frames(end: asyncio.Event) -> AsyncIterator[None]:
    while not end.is_set():
        yield
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRAME_S):
                await end.wait()


@contextlib.contextmanager
def _keys(quit_asked: asyncio.Event) -> Iterator[None]:
    """Read keys as they are typed, without showing them."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        typed = os.read(descriptor, 64)
        if not typed or not QUIT.isdisjoint(typed):
            quit_asked.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
