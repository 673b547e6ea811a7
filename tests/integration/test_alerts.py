"""Every alert fires on its fault, in a running stack, and none over a hundred healthy switches.

The rules are the shipped ones with all their times divided by `FACTOR`: five minutes are five seconds.
SWITCHES=1000 in the environment makes a thousand healthy switches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import pytest

from tests import exporting_engine, watching
from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.devices import CARD_MIB, beside, on_card, start_on_card
from tests.integration.gateways import CHAT, MESSAGES, client_of
from tests.nvml.library import FakeDevice, build
from tests.prometheus_server import PrometheusServer, needs_prometheus, prometheus_of
from tests.redis_server import needs_redis, redis_server

pytestmark = [pytest.mark.engine, pytest.mark.slow, needs_prometheus, pytest.mark.feature("alerts")]

FACTOR: Final = 60
SWITCHES: Final = int(os.environ.get("SWITCHES", "100"))
CROWD: Final = 40
"""More than the 32 of QueueLong."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home


@contextmanager
def watched(home: GatewayHome, bounds: float = FACTOR) -> Iterator[PrometheusServer]:
    """Have the gateway watched; it was seen to be well first."""
    with prometheus_of(home, FACTOR, bounds) as server:
        eventually(lambda: server.ask('up{job="gateway"} == 1'))
        assert server.alerts() == []
        yield server


def wait_until(server: PrometheusServer, *names: str, keep: Callable[[], Any] = int) -> None:
    """Wait until alerts have fired, with texts that people can read.

    Args:
        server: Who judges.
        names: Of the alerts.
        keep: What has to go on meanwhile.
    """
    texts: dict[str, dict[str, str]] = {}

    def all_fired() -> bool:
        keep()
        firing = (alert for alert in server.alerts() if alert["state"] == "firing")
        texts.update({alert["labels"]["alertname"]: alert["annotations"] for alert in firing})
        return set(names) <= texts.keys()

    try:
        eventually(all_fired, every_s=0.2)
    except AssertionError:
        raise AssertionError(f"did not fire: {set(names) - texts.keys()}") from None
    for name in names:
        assert not [text for text in texts[name].values() if "<no value>" in text or "%!" in text]


# Faults


def test_an_engine_that_is_frozen_and_a_gateway_that_is_killed(home: GatewayHome) -> None:
    journal = str(home.root / "a.jsonl")
    model = fake_model(home.root, "a")
    home.configure({"a": {**model, "engine": exporting_engine.engine("a", journal)}})
    home.start()
    assert home.chat("a").status_code == 200

    with watched(home) as server:
        eventually(lambda: server.ask('up{job="engines",model="a"} == 1'))
        psutil.Process(home.journal("a")[0]["pid"]).send_signal(signal.SIGSTOP)
        wait_until(server, "EngineUnreachable")
        home.kill()
        wait_until(server, "GatewayDown")


def test_an_engine_that_does_not_start(home: GatewayHome) -> None:
    home.configure({"bad": fake_model(home.root, "bad", "--exit-at-start", "1")})
    home.start()

    with watched(home) as server:
        alerts = ("EngineFailed", "SwitchFailing", "ErrorsMany")
        wait_until(server, *alerts, keep=lambda: home.chat("bad"))


def test_an_engine_that_keeps_ending(home: GatewayHome) -> None:
    home.configure({"restless": fake_model(home.root, "restless", "--die-after-tokens", "6")})
    home.start()

    with watched(home) as server:
        for _ in range(3):
            assert home.chat("restless").status_code == 200
            assert home.chat("restless", max_tokens=8).status_code == 503
        wait_until(server, "EngineRestarts")


def test_a_switch_that_drags_on_while_a_crowd_waits(home: GatewayHome) -> None:
    slowly = home.root / "slowly"
    model = fake_model(home.root, "slow", timeouts={"start_s": 60, "stop_s": 5})
    drag = 'test -e "$0" && set -- "$@" --load-s 25; exec "$@"'
    argv = ["sh", "-c", drag, str(slowly), *model["engine"]["argv"]]
    slow = {**model, "engine": {**model["engine"], "argv": argv}}
    home.configure({"slow": slow, "other": fake_model(home.root, "other")})
    home.start()
    for name in ("slow", "other"):
        assert home.load(name).status_code == 200
    slowly.touch()

    with watched(home) as server, ThreadPoolExecutor(CROWD) as pool:
        crowd = [pool.submit(home.chat, "slow") for _ in range(CROWD)]
        wait_until(server, "SwitchSlow", "QueueLong")
        wait_until(server, "SwitchStuck")
        assert {each.result().status_code for each in crowd} == {200}
        wait_until(server, "WaitsLong")


def test_two_models_that_take_turns_and_begin_late(home: GatewayHome) -> None:
    flags = ("--load-s", "0.5", "--token-delay-s", "0.3")
    home.configure({name: fake_model(home.root, name, *flags) for name in "ab"})
    home.start()

    def turn() -> None:
        for name in "ab":
            body = {"model": name, "messages": MESSAGES, "stream": True, "max_tokens": 1}
            assert home.post(CHAT, body).status_code == 200

    with watched(home) as server:
        wait_until(server, "SwitchThrash", "FirstTokenSlow", keep=turn)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return build(tmp_path / "nvml")


def sleeper(home: GatewayHome, device: FakeDevice, name: str, *flags: str) -> dict[str, Any]:
    """A model that sleeps for others; its engine has 9000 MiB of the card, or 300 asleep."""
    memory = ("--device-memory", str(device.folder), "--awake-mib=9000", "--asleep-1-mib=300")
    model = beside(home.root, name)
    argv = [*model["engine"]["argv"], "--sleep-mode", *memory, *flags]
    return {
        **model,
        "engine": {**model["engine"], "argv": argv, "sleep_mode": True},
        "devices": ["gpu0"],
        "residency": "asleep-1",
        "timeouts": {"start_s": 30, "stop_s": 5, "sleep_s": 5, "wake_s": 5, "memory_s": 5},
        "memory_mib": {"awake": 9000, "asleep-1": 300, "host": 0},
    }


def test_a_card_that_others_fill_and_an_engine_that_does_not_sleep(
    home: GatewayHome, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice(home.root / "card", CARD_MIB)
    models = {
        "good": sleeper(home, device, "good"),
        "flawed": sleeper(home, device, "flawed", "--sleep-fault", "sleep-500"),
    }
    start_on_card(home, models, monkeypatch, **device.environment(library))

    with watched(home) as server, subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            for name in ("flawed", "good"):
                assert home.chat(name).status_code == 200
            held = sum(int((device.folder / str(pid)).read_text()) for pid in device.holders())
            device.hold(stranger.pid, CARD_MIB - held - 50)
            wait_until(server, "SleepFailing", "DeviceMemoryForeign", "DeviceMemoryLow")
        finally:
            stranger.kill()


@needs_redis
def test_a_cache_that_is_gone(home: GatewayHome) -> None:
    with redis_server(home.root) as redis:
        home.configure({"a": fake_model(home.root, "a")}, cache={"redis_url": redis.url})
        home.start()

        def ask() -> None:
            assert home.chat("a", temperature=0, seed=len(asked)).status_code == 200
            asked.append(1)

        asked: list[int] = []
        with watched(home) as server:
            ask()
            redis.stop()
            wait_until(server, "CacheDown", keep=ask)
            (errors,) = server.ask("sum(increase(llm_cache_errors_total[1m]))")
            assert float(errors["value"][1]) > 0


def test_every_alert_has_its_fault_here() -> None:
    text = Path(__file__).read_text()

    assert [name for name in watching.alerts() if f'"{name}"' not in text] == []


# Health

HEALTHY_BOUNDS: Final = 10
"""Fake engines are more than ten times as fast as real ones, also where many programs run."""


class Work:
    """What makes switches healthy: each is used for longer than it took."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def on(self, model: str) -> None:
        """Switch to a model, and use it."""
        switch_s = self._ask(model)
        used_s = 0.0
        while used_s < 1.5 * switch_s:
            used_s += self._ask(model)

    def _ask(self, model: str) -> float:
        began = time.monotonic()
        body = {"model": model, "messages": MESSAGES, "stream": True, "max_tokens": 3}
        assert self._http.post(CHAT, json=body).status_code == 200
        return time.monotonic() - began


def test_no_alert_fires_over_healthy_switches(
    home: GatewayHome, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most models sleep for each other; every tenth switch is a stop and a start."""
    device = FakeDevice(home.root / "card", CARD_MIB)
    work = ("--token-delay-s", "0.01")
    models = {name: sleeper(home, device, name, *work) for name in "ab"}
    models["cold"] = on_card(device, home.root, "cold", 9000, *work)
    at_once = {"switching": {"policy": "fifo"}}  # the other one lingers for a second each time
    start_on_card(home, models, monkeypatch, at_once, **device.environment(library))
    names = ["cold" if turn % 10 == 9 else "ab"[turn % 2] for turn in range(SWITCHES)]
    began = time.monotonic()

    with watched(home, HEALTHY_BOUNDS) as server, client_of(home) as http:
        user = Work(http)
        for name in names:
            user.on(name)
        print(f"{SWITCHES} switches in {time.monotonic() - began:.0f} s")
        switches = 'sum(llm_switches_total{outcome="ok"})'
        eventually(lambda: server.ask(f"{switches} == {SWITCHES}"))

        assert server.fired() == set()
        assert server.ask('sum(llm_switches_total{outcome!="ok"}) == 0')
