from __future__ import annotations

from typing import Any

import pytest

from llm_backend.engines.base import EngineKind
from llm_backend.switching.needs import needs_of
from llm_backend.switching.residency import HOST
from tests.unit.switching.loopback import spec

SLEEPS, STAYS = EngineKind("vllm", sleeps=True), EngineKind("llama.cpp")
MEMORY = {"awake": 9000, "asleep-1": 600, "asleep-2": 300}


def test_a_model_reserves_on_each_of_its_devices() -> None:
    needs = needs_of(spec("a", memory_mib=MEMORY), STAYS, 4)

    assert (needs.model, needs.group, needs.concurrency) == ("a", "cpu", 4)
    assert needs.mib == {"cpu": 9000}
    assert needs.rungs == {}


@pytest.mark.parametrize(
    ("residency", "rungs"),
    [
        ("stop", {}),
        ("asleep-1", {1: {"cpu": 600, HOST: 9000}}),
        ("asleep-2", {2: {"cpu": 300}}),
        ("auto", {1: {"cpu": 600, HOST: 9000}, 2: {"cpu": 300}}),
    ],
)
def test_asleep_it_reserves_by_its_level(residency: str, rungs: Any) -> None:
    sleeper = spec("a", memory_mib=MEMORY, residency=residency)

    assert needs_of(sleeper, SLEEPS, 1).rungs == rungs
    assert needs_of(sleeper, SLEEPS, 1).rung_by_time is (residency == "auto")


def test_an_engine_that_cannot_sleep_has_no_rungs() -> None:
    assert needs_of(spec("a", residency="auto"), STAYS, 1).rungs == {}


@pytest.mark.parametrize(
    ("fields", "mib"),
    [
        ({"memory_mib": {**MEMORY, "host": 7000}}, 7000),
        ({"memory_mib": {**MEMORY, "host": 0}}, 0),
        ({"memory_mib": MEMORY}, 9000),
        (
            {
                "memory_mib": MEMORY,
                "weights": {"source": "hub", "repo": "a/b", "size_mib": 6605},
            },
            6605,
        ),
    ],
)
def test_in_ram_are_the_weights(fields: dict[str, Any], mib: int) -> None:
    assert needs_of(spec("a", residency="asleep-1", **fields), SLEEPS, 1).rungs[1][HOST] == mib
