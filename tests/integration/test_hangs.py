"""A hung engine is found and replaced in time, and one that is merely busy never is.

The rules of the watch are the default ones, made shorter in proportion. HANG_SCALE=1 in the
environment takes them as they are, and BUSY_S=600 keeps an engine busy for ten minutes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import pytest

from llm_backend.config.catalog import Timeouts
from llm_backend.config.settings import SwitchingSettings
from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.gateways import CHAT, DEFECTS, MESSAGES
from tests.integration.prefilling_engine import LONG_PROMPT, command
from tests.integration.test_faults import broken_once, mend

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.feature("engines that hang")]

SCALE: Final = float(os.environ.get("HANG_SCALE", "0.1"))
BUSY_S: Final = float(os.environ.get("BUSY_S", "20"))
STALL_S: Final = SwitchingSettings().stall_s * SCALE
WATCH: Final = {"stall_s": STALL_S, "probe_s": SwitchingSettings().probe_s * SCALE}
STOP_S: Final = Timeouts().stop_s * SCALE
PROMISED_S, ROOM_S = 60 * SCALE, 6.0
"""From the last sign of life until those who wait are served; room for a start on a slow machine."""
SEATS: Final = 4


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home
        log = home.log.read_text()
        assert [word for word in DEFECTS if word in log] == [], log


def ask(home: GatewayHome, model: str, prompt: str = "", **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream, but for the mark of its end, which is an event of its own."""
    messages = [{"role": "user", "content": prompt}] if prompt else MESSAGES
    body = {"model": model, "messages": messages, "stream": True, **fields}
    with httpx2.stream("POST", home.url + CHAT, json=body, timeout=300) as answer:
        lines = [x[6:] for x in answer.iter_lines() if x.startswith("data: ")]
    return [{"done": True} if line == "[DONE]" else json.loads(line) for line in lines]


def asked(home: GatewayHome, model: str, path: str = CHAT) -> int:
    """How many requests for an answer have reached the engine."""
    return sum(x["event"] == "request" and x["path"] == path for x in home.journal(model))


@pytest.mark.parametrize("how", ["its core is dead", "it is frozen"])
def test_a_hung_engine_is_found_and_replaced(home: GatewayHome, how: str) -> None:
    """Those whom it served are told, those in line never notice."""
    dead = how == "its core is dead"
    flags = ("--hang-after-tokens", "3") if dead else ("--token-delay-s", "0.05")
    timeouts = {"start_s": 30, "stop_s": STOP_S}
    bad = broken_once(home, *flags, "--tokens", "1000", concurrency=SEATS, timeouts=timeouts)
    home.configure({"bad": bad}, switching=WATCH)
    home.start()
    assert home.load("bad").status_code == 200
    mend(home)  # the next start is a sound one

    with ThreadPoolExecutor(3 * SEATS) as pool:
        served = [pool.submit(ask, home, "bad", max_tokens=1000) for _ in range(SEATS)]
        eventually(lambda: asked(home, "bad") == SEATS)
        waiting = [pool.submit(ask, home, "bad", max_tokens=4) for _ in range(SEATS)]
        if not dead:
            psutil.Process(home.journal("bad")[0]["pid"]).send_signal(signal.SIGSTOP)
        began = time.monotonic()
        cut = [stream.result() for stream in served]
        found_s = time.monotonic() - began
        whole = [stream.result() for stream in waiting]
        mended_s = time.monotonic() - began

    print(f"{how}: found after {found_s:.1f} s, mended after {mended_s:.1f} s, {SCALE=}")
    for events in cut:
        errors = [event["error"] for event in events if "error" in event]
        assert [error["code"] for error in errors] == ["engine_gone"]
        assert "bad hung" in errors[0]["message"]
        assert {"done": True} not in events
    assert [events[-1] for events in whole] == [{"done": True}] * SEATS
    assert home.starts("bad") == 2
    assert WATCH["stall_s"] < found_s <= mended_s < PROMISED_S + ROOM_S


def test_a_busy_engine_is_never_taken_for_a_hung_one(home: GatewayHome) -> None:
    """All seats are taken: by prompts that take twice the patience of the watch, by slow tokens."""
    entry = fake_model(home.root, "busy", concurrency=SEATS)
    flags = ("--served-model-name", "busy", "--journal", str(home.root / "busy.jsonl"))
    argv = command(2 * STALL_S, *flags, "--token-delay-s", "0.05", "--tokens", "30")
    home.configure(
        {"busy": {**entry, "engine": {**entry["engine"], "argv": argv}}}, switching=WATCH
    )
    home.start()
    assert home.load("busy").status_code == 200
    before = asked(home, "busy", "/v1/completions")
    began, rounds = time.monotonic(), 0

    with ThreadPoolExecutor(3 * SEATS) as pool:
        while time.monotonic() - began < BUSY_S:
            reading = [pool.submit(ask, home, "busy", LONG_PROMPT) for _ in range(SEATS)]
            assert whole(reading) == SEATS
            writing = [pool.submit(ask, home, "busy") for _ in range(2 * SEATS)]
            assert whole(writing) == 2 * SEATS
            rounds += 1

    probes = asked(home, "busy", "/v1/completions") - before
    print(f"{rounds} rounds in {time.monotonic() - began:.0f} s, {probes} probes, {SCALE=}")
    assert probes >= rounds / 2, "the engine was never under suspicion"
    assert home.starts("busy") == 1


def whole(streams: list[Future[list[dict[str, Any]]]]) -> int:
    """How many streams came to their end."""
    return sum(stream.result()[-1] == {"done": True} for stream in streams)
