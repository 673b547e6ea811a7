"""`fair` and `fifo` on the same requests, with real engines whose starts are slowed down.

What tests/model/test_policies_on_traces.py says of simulated time is so in real time, too.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from statistics import mean
from typing import Any

import httpx2
import pytest

from llm_backend.engines import llamacpp_serve
from tests.harness import PATIENCE_S, gateway_home
from tests.integration.test_engines import SMOLLM2

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.feature("fair policy")]

REQUESTS = 4
"""Of each of the two clients."""

SLOWED = 'echo start >> "$0"; sleep 1; exec "$@"'


def slowed(root: Path, name: str) -> dict[str, Any]:
    """A catalog entry: llama.cpp with SmolLM2, which leaves a line and rests before it starts."""
    serve = (sys.executable, llamacpp_serve.__file__, "--model", "{weights}", "--port", "{port}")
    argv = ("sh", "-c", SLOWED, str(root / "starts"), *serve, "--alias", name, "--context", "512")
    return {
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": list(argv)},
        "weights": SMOLLM2,
        "capabilities": ["chat"],
        "devices": ["cpu"],
    }


def in_a_loop(url: str, model: str, waits: list[float]) -> None:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    with httpx2.Client(timeout=2 * PATIENCE_S) as client:
        for _ in range(REQUESTS):
            asked = time.monotonic()
            assert client.post(url, json=body).status_code == 200
            waits.append(time.monotonic() - asked)


def ping_pong(root: Path, policy: str) -> tuple[int, float]:
    """Return starts of engines, and the mean of the seconds until an answer."""
    with gateway_home(root) as home:
        models = {name: slowed(root, name) for name in ("one", "two")}
        home.configure(models, switching={"policy": policy})
        home.start()
        assert home.load("one").status_code == 200
        url = home.url + "/v1/chat/completions"
        waits: list[float] = []
        clients = [threading.Thread(target=in_a_loop, args=(url, model, waits)) for model in models]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert len(waits) == 2 * REQUESTS
        starts = (root / "starts").read_text().count("start")
        return starts, mean(waits)


def test_on_ping_pong_fair_switches_a_third_as_often_and_waits_half_as_long(tmp_path: Path) -> None:
    found = {}
    for policy in ("fifo", "fair"):
        (tmp_path / policy).mkdir()
        found[policy] = ping_pong(tmp_path / policy, policy)
    (fifo_starts, fifo_s), (fair_starts, fair_s) = found["fifo"], found["fair"]

    assert 3 * (fair_starts - 1) <= fifo_starts - 1, found
    assert 2 * fair_s <= fifo_s, found
