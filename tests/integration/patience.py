"""The official SDKs, in Python and Node, while their model loads for longer than they wait."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from tests.harness import fake_model, gateway_home
from tests.muting_proxy import MutingProxy

SDKS = Path(__file__).parent.parent / "sdks"
PROGRAMS = {
    "python": (sys.executable, str(SDKS / "ask.py")),
    "node": ("node", str(SDKS / "ask.mjs")),
}
MODEL = "patience"

needs_node = pytest.mark.skipif(
    not (SDKS / "node_modules").exists(),
    reason="the SDKs for Node are not here: npm ci --prefix tests/sdks",
)

Way = Literal["stream", "plain", "muted"]
"""A stream, an answer in one piece, or a stream whose comments and pings a proxy swallows."""


@dataclass(frozen=True, slots=True)
class Case:
    """Who asks, and how."""

    language: str
    sdk: str
    way: Way

    def __str__(self) -> str:
        return f"{self.language}-{self.sdk}-{self.way}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a program got.

    Attributes:
        text: The answer; None where there was none.
        error: What the SDK raised.
        seconds: Until then.
    """

    text: str | None
    error: str | None
    seconds: float


def cases(*ways: Way) -> list[Case]:
    """All SDKs, each in these ways."""
    return [Case(*who) for who in product(PROGRAMS, ("openai", "anthropic"), ways)]


async def ask(case: Case, url: str, limit_ms: int | None, ready: asyncio.Barrier) -> Told:
    """Ask one question when all are ready, with the limits of the SDK or with this one."""
    kind = "plain" if case.way == "plain" else "stream"
    limit = () if limit_ms is None else (str(limit_ms),)
    process = await asyncio.create_subprocess_exec(
        *PROGRAMS[case.language],
        *(case.sdk, url, MODEL, kind, *limit),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()  # importing an SDK takes seconds
        await ready.wait()
        said, _ = await process.communicate(b"\n")
    finally:
        if process.returncode is None:
            process.kill()
    fields: dict[str, Any] = json.loads(said)
    return Told(**fields)


async def ask_all(url: str, limit_ms: int | None) -> dict[Case, Told]:
    """Ask in every way at once."""
    port = httpx2.URL(url).port
    assert port is not None
    async with MutingProxy(port) as proxy:
        muted = f"http://127.0.0.1:{proxy.port}"
        every = cases("stream", "plain", "muted")
        ready = asyncio.Barrier(len(every))
        told = await asyncio.gather(
            *(ask(case, muted if case.way == "muted" else url, limit_ms, ready) for case in every)
        )
    assert proxy.swallowed > 0
    return dict(zip(every, told, strict=True))


def through_a_load(root: Path, load_s: float, limit_ms: int | None) -> dict[Case, Told]:
    """Return what everybody got who asked when the model began to load."""
    with gateway_home(root) as home:
        slow = fake_model(root, MODEL, "--load-s", str(load_s))
        slow["timeouts"] = {"start_s": load_s + 60, "stop_s": 5}
        home.configure({MODEL: slow})
        home.start()
        told = asyncio.run(ask_all(home.url, limit_ms))
        assert home.starts(MODEL) == 1, "whoever gave up did not end the load"
        return told
