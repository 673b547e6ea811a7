"""The gateway is killed at every named step of a switch: what does the next one find and do?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.harness import PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home

pytestmark = pytest.mark.feature("never two engines")

POINTS = [
    "step:wanted:b",
    "state:stopping:a",
    "step:stop:a",
    "step:stop_done:a",
    "state:stopped:a",
    "state:starting:b",
    "step:start:b",
    "step:memory:b",
    "step:memory_done:b",
    "step:launch:b",
    "step:launched:b",
    "step:launch_done:b",
    "step:load:b",
    "step:load_done:b",
    "step:warm_up:b",
    "step:warm_up_done:b",
    "step:start_done:b",
    "state:awake:b",
]
"""Every state and step of a switch from a to b, in their order."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        home.configure({m: fake_model(tmp_path, m, "--load-s", "0.2") for m in ("a", "b")})
        yield home


def run_to(home: GatewayHome, point: str) -> None:
    """Have a awake, then switch to b; the gateway kills itself on the way."""
    home.start("--kill-at", point)
    with contextlib.suppress(httpx2.HTTPError):
        home.chat("a")
        home.chat("b")
    assert home.process is not None
    assert home.process.wait(PATIENCE_S) == -9, f"never came to {point}"


@pytest.mark.engine
@pytest.mark.parametrize("point", POINTS)
def test_the_wanted_state_is_reached_after_a_kill(home: GatewayHome, point: str) -> None:
    run_to(home, point)
    starts_before = home.starts("b")

    home.start()

    eventually(lambda: home.state("b") == "awake")
    assert home.state("a") == "stopped"
    assert home.chat("b").json()["model"] == "b"
    # An engine that was launched is adopted, loading or not: it never starts again.
    assert home.starts("b") == max(1, starts_before)
    # The witness would have ended a second engine with the status 99.
    assert "status 99" not in home.log.read_text()
    launchers_and_engines = home.engine_processes()
    assert len(launchers_and_engines) == 2, launchers_and_engines


@pytest.mark.engine
def test_a_drain_is_finished_by_the_next_gateway(home: GatewayHome) -> None:
    home.configure(
        {m: fake_model(home.root, m, "--token-delay-s", "0.05", "--tokens", "400") for m in "ab"}
    )
    home.start("--kill-at", "state:draining:a")
    with contextlib.suppress(httpx2.HTTPError), _streaming(home, "a") as lines:
        next(lines)
        home.load("b", wait=False)
    assert home.process is not None
    assert home.process.wait(PATIENCE_S) == -9

    home.start()

    eventually(lambda: home.state("b") == "awake")
    assert home.state("a") == "stopped"


@contextlib.contextmanager
def _streaming(home: GatewayHome, model: str) -> Iterator[Iterator[str]]:
    body = {"model": model, "stream": True, "max_tokens": 400, "messages": []}
    with httpx2.stream("POST", home.url + "/v1/chat/completions", json=body) as response:
        yield response.iter_lines()


@pytest.mark.engine
def test_a_healthy_engine_is_adopted_without_a_reload(home: GatewayHome) -> None:
    home.start()
    assert home.load("b").status_code == 200
    pid = home.journal("b")[0]["pid"]
    home.kill()

    home.start()

    assert home.state("b") == "awake"
    assert home.chat("b").status_code == 200
    assert [line["pid"] for line in home.journal("b") if line["event"] == "start"] == [pid]


@pytest.mark.engine
def test_sigterm_leaves_the_engine_to_the_next_gateway(home: GatewayHome) -> None:
    home.start()
    home.load("a")
    assert home.terminate() == 0
    assert len(home.engine_processes()) == 2

    home.start()

    assert home.state("a") == "awake"
    assert home.starts("a") == 1


@pytest.mark.engine
def test_an_engine_that_is_not_wanted_any_more_is_ended(home: GatewayHome) -> None:
    home.start()
    home.load("a")
    home.kill()
    models = dict(home.models)
    models["a"]["engine"]["argv"] = [*models["a"]["engine"]["argv"], "--tokens", "3"]
    home.configure(models)

    home.start()

    # Its launch options changed: it is ended before the gateway serves, and started anew.
    eventually(lambda: home.state("a") == "awake")
    assert home.starts("a") == 2
    assert "status 99" not in home.log.read_text()


@pytest.mark.engine
def test_an_unloaded_model_stays_unloaded(home: GatewayHome) -> None:
    home.start()
    home.load("a")
    unloaded = home.post("/api/v1/inference/unload", {}, headers=home.admin).json()
    assert unloaded == {"unloaded": ["a"]}
    home.kill()

    home.start()

    assert home.state("a") == "stopped"
    assert home.engine_processes() == []


@pytest.mark.engine
def test_a_second_gateway_is_refused(home: GatewayHome) -> None:
    home.start()
    first = home.process
    home.start(ready=False)
    assert home.process is not None
    assert home.process.wait(PATIENCE_S) == 75
    assert f"Another gateway (pid {first and first.pid}) holds" in home.log.read_text()
    home.process = first
