"""Models that leave the card asleep: real processes, and everything that sleep mode does wrong.

No request may ever reach an engine that sleeps, and what a damaged wake would answer nobody may see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_backend.testing.fake_engine import command
from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.devices import CARD_MIB, start_on_card
from tests.integration.gateways import DEFECTS
from tests.nvml.library import FakeDevice, build

pytestmark = pytest.mark.feature("models that sleep")

AWAKE_MIB, ASLEEP_MIB = 13_000, {1: 500, 2: 300}
TIMEOUTS = {"start_s": 30, "stop_s": 5, "memory_s": 10, "sleep_s": 5, "wake_s": 5}
WAKES = int(os.environ.get("WAKES", "40"))
"""200 of them were counted once; a test of every day counts fewer."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path / "card", CARD_MIB)


class House:
    """A gateway on a card whose models sleep."""

    def __init__(self, home: GatewayHome, device: FakeDevice) -> None:
        self.home = home
        self.device = device

    def sleeper(self, name: str, residency: str, *flags: str) -> dict[str, Any]:
        journal = str(self.home.root / f"{name}.jsonl")
        held = [f"--asleep-{level}-mib={mib}" for level, mib in ASLEEP_MIB.items()]
        argv = command(
            *("--served-model-name", name, "--journal", journal, "--sleep-mode"),
            *("--device-memory", str(self.device.folder), f"--awake-mib={AWAKE_MIB}", *held),
            *flags,
        )
        entry = fake_model(self.home.root, name)
        return {
            **entry,
            "engine": {**entry["engine"], "argv": argv, "sleep_mode": True},
            "devices": ["gpu0"],
            "residency": residency,
            "timeouts": TIMEOUTS,
            "memory_mib": {
                "awake": AWAKE_MIB,
                "asleep-1": ASLEEP_MIB[1],
                "asleep-2": ASLEEP_MIB[2],
                "host": 0,
            },
        }

    def text(self, model: str, **fields: Any) -> str:
        """Return what a model answers to the same question each time."""
        answer = self.home.chat(model, temperature=0, **fields)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def residency(self, model: str) -> str:
        models = self.home.get("/status").json()["models"]
        return next(str(m["residency"]) for m in models if m["id"] == model)

    def failures(self, model: str = "") -> dict[tuple[str, str], float]:
        """How often a rung failed, by step and reason; of one model or all."""
        found = {}
        for line in self.home.get("/metrics", headers=self.home.admin).text.splitlines():
            if line.startswith("llm_sleep_failures_total{"):
                labels, value = line.rsplit(" ", 1)
                pairs = dict(x.split("=") for x in labels.partition("{")[2][:-1].split(","))
                if model in {"", pairs["model"].strip('"')}:
                    found[pairs["step"].strip('"'), pairs["reason"].strip('"')] = float(value)
        return {key: count for key, count in found.items() if count}


@pytest.fixture
def house(tmp_path: Path, device: FakeDevice) -> Iterator[House]:
    with gateway_home(tmp_path) as home:
        house = House(home, device)
        yield house
        check(house)


def check(house: House) -> None:
    """What must be so after every test."""
    for model in house.home.models:
        assert "asleep_request" not in house.home.events(model)
    log = house.home.log.read_text()
    assert [word for word in DEFECTS if word in log] == [], log


def start(house: House, library: Path, patch: pytest.MonkeyPatch, **models: Any) -> None:
    start_on_card(house.home, models, patch, **house.device.environment(library))


@pytest.mark.parametrize("level", [1, 2])
def test_a_model_comes_back_from_its_sleep(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    residency = f"asleep-{level}"
    pair = {name: house.sleeper(name, residency) for name in "ab"}
    start(house, library, monkeypatch, **pair)
    first = house.text("a")

    house.text("b")
    assert house.residency("a") == residency
    assert house.home.state("a") == "asleep"
    held = house.home.get("/health").json()["devices"]["gpu0"]
    assert held["free_mib"] == CARD_MIB - AWAKE_MIB - ASLEEP_MIB[level]

    answer = house.home.chat("a", temperature=0, user="again")
    assert answer.json()["choices"][0]["message"]["content"] == first
    assert f"wake_{level};dur=" in answer.headers["server-timing"]
    assert "load" not in answer.headers["server-timing"]
    assert house.residency("a") == "awake"
    assert [house.home.starts(model) for model in "ab"] == [1, 1]
    assert house.failures() == {}
    assert house.home.events("a").count("reload") == level - 1


def test_a_model_whose_memory_is_taken_sleeps_on(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = {"timeouts": {**TIMEOUTS, "memory_s": 1}}
    pair = {name: {**house.sleeper(name, "asleep-1"), **soon} for name in "ab"}
    start(house, library, monkeypatch, **pair)
    first = house.text("a")
    house.text("b")
    house.home.post("/api/v1/inference/unload", {"model": "b"}, headers=house.home.admin)
    house.device.reserve(CARD_MIB // 2)  # a game

    refused = house.home.chat("a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "gpu_busy")
    assert house.residency("a") == "asleep-1"

    house.device.reserve(0)
    eventually(lambda: house.home.chat("a").status_code == 200)
    assert house.text("a", user="again") == first
    assert house.home.starts("a") == 1
    assert house.failures() == {}


FAULTS = [
    ("sleep-500", 1, "sleep_1", "failed"),
    ("hang-sleep", 1, "sleep_1", "failed"),
    ("noop", 1, "sleep_1", "failed"),
    ("noop-quiet", 1, "sleep_1", "failed"),
    ("wake-500", 1, "wake_1", "failed"),
    ("wake-500", 2, "wake_2", "failed"),
    ("slow-wake", 1, "wake_1", "failed"),
    ("die-wake", 1, "wake_1", "failed"),
    ("corrupt-wake", 1, "wake_1", "canary"),
    ("corrupt-wake", 2, "wake_2", "canary"),
    ("corrupt-reload", 2, "wake_2", "canary"),
]


@pytest.fixture(scope="module")
def faulty(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One sound model, and one for each way to go wrong."""
    folder = tmp_path_factory.mktemp("faulty")
    device = FakeDevice(folder / "card", CARD_MIB)
    with gateway_home(folder) as home, pytest.MonkeyPatch.context() as patch:
        house = House(home, device)
        models = {
            f"{fault}-{level}": house.sleeper(
                f"{fault}-{level}", f"asleep-{level}", "--sleep-fault", fault
            )
            for fault, level, *_ in FAULTS
        }
        start(house, library, patch, good=house.sleeper("good", "asleep-1"), **models)
        yield house
        check(house)


@pytest.mark.parametrize(("fault", "level", "step", "reason"), FAULTS)
def test_what_goes_wrong_with_sleep_costs_a_start_and_nothing_else(
    faulty: House, fault: str, level: int, step: str, reason: str
) -> None:
    bad = f"{fault}-{level}"
    first = faulty.text(bad)

    faulty.text("good", user=bad)
    again = faulty.text(bad, user="again")

    assert again == first
    assert faulty.home.starts(bad) == 2
    assert faulty.failures(bad) == {(step, reason): 1}
    faulty.text("good", user=f"{bad} again")
    assert faulty.residency(bad) == "stopped", "the rung that failed is left alone for a while"
    assert faulty.home.starts("good") == 1


def test_an_engine_without_the_routes_is_stopped(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = house.sleeper("plain", "auto")
    argv = [word for word in plain["engine"]["argv"] if word != "--sleep-mode"]
    plain["engine"] = {**plain["engine"], "argv": argv}
    start(house, library, monkeypatch, plain=plain, other=house.sleeper("other", "stop"))

    house.text("plain")
    house.text("other")

    assert house.residency("plain") == "stopped"
    assert house.failures() == {("sleep_1", "failed"): 1}


def test_who_sleeps_gives_way_where_the_card_is_full(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three models of 13,000 MiB: there is room for three sleepers of 500 MiB, not for one of 2,000."""
    large = house.sleeper("large", "asleep-1", "--asleep-1-mib=2000")
    large["memory_mib"] = {**large["memory_mib"], "asleep-1": 2_000}
    rest = {name: house.sleeper(name, "asleep-1") for name in "bc"}
    start(house, library, monkeypatch, large=large, **rest)

    for model in ("large", "b", "c"):
        house.text(model)

    assert house.residency("large") == "stopped"
    assert house.residency("b") == "asleep-1"


def test_a_gateway_that_was_killed_leaves_no_sleeper_to_be_asked(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(house, library, monkeypatch, **{n: house.sleeper(n, "asleep-1") for n in "ab"})
    first = house.text("a")
    house.text("b")
    house.home.kill()

    house.home.start()

    assert house.residency("a") == "stopped"
    assert house.text("b", user="again")
    assert house.home.starts("b") == 1, "who was awake is taken over"
    assert house.text("a", user="again") == first
    assert house.home.starts("a") == 2


def test_an_engine_that_dies_in_its_sleep_is_started_anew(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(house, library, monkeypatch, **{n: house.sleeper(n, "asleep-1") for n in "ab"})
    first = house.text("a")
    house.text("b")
    (pid,) = [e["pid"] for e in house.home.journal("a") if e["event"] == "start"]

    psutil.Process(pid).kill()
    eventually(lambda: house.home.state("a") == "failed")

    assert house.text("a", user="again") == first


def test_stopping_leaves_nothing(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(house, library, monkeypatch, **{n: house.sleeper(n, "auto") for n in "ab"})
    house.text("a")
    house.text("b")

    answer = house.home.post("/api/v1/inference/unload", {}, headers=house.home.admin)

    assert sorted(answer.json()["unloaded"]) == ["a", "b"]
    assert house.home.engine_processes() == []
    assert house.device.holders() == set()


@pytest.mark.slow
def test_no_false_alarm_in_many_wakes_under_load(
    house: House, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {n: house.sleeper(n, "asleep-1", "--token-delay-s", "0.002") for n in "ab"}
    start(house, library, monkeypatch, **pair)
    wakes = 0

    def ask(number: int) -> str:
        return house.text("ab"[number % 2], user=str(number), max_tokens=8)

    with ThreadPoolExecutor(8) as crowd:
        numbers = iter(range(100_000))
        while wakes < WAKES:
            texts = list(crowd.map(ask, [next(numbers) for _ in range(64)]))
            assert len(set(texts[0::2])) == len(set(texts[1::2])) == 1
            wakes = sum(house.home.events(model).count("awake") for model in "ab")

    assert house.failures() == {}
    assert [house.home.starts(model) for model in "ab"] == [1, 1]
