"""Random operations on a card whose models switch, sleep, fail, and have to make way for others.

OPERATIONS=N in the environment does more of them, and OPERATIONS_SEED=N others; with `-s` one sees
what came of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from llm_backend.switching.states import State
from tests.harness import GatewayHome, eventually, gateway_home
from tests.integration.random_house import ROOM_MIB, House, card, configure, flags_of, running
from tests.integration.random_operations import Operations
from tests.integration.witnessed_engine import command
from tests.nvml.library import FakeDevice
from tests.unit.gateway.rig import LOOPS

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.slow]

OPERATIONS: Final = int(os.environ.get("OPERATIONS", "900"))
SEED: Final = int(os.environ.get("OPERATIONS_SEED", "16"))
PARTS: Final = max(1, OPERATIONS // 1000)
"""Each is a new house, by the next seed: another model has another fault, another policy reigns."""
AUTO_IS_FAULTY: Final = 6
"""A seed by which `sleeper` has no fault."""
HAPPENS: Final = {
    "asked: served": 400,
    "left": 100,
    "switch: done": 3,
    "unload: done": 2,
    "killed": 3,
    "froze": 2,
    "lease: done": 1,
}
"""How often each comes about at least, in a thousand operations; else the test tests nothing."""


@pytest.fixture(scope="module")
def anyio_backend() -> object:
    """The event loop that the product runs on."""
    return LOOPS["uvloop"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    with card(tmp_path, monkeypatch) as device:
        yield device


def test_the_witness_tells_two_at_once(home: GatewayHome, device: FakeDevice) -> None:
    """The first is alone and has room; the second has neither."""
    with contextlib.ExitStack() as stack:
        for name in ("plain", "large"):
            argv = command(home.root / "witness", ROOM_MIB, *flags_of(home, device, name))
            argv[argv.index("{port}")] = "0"
            engine = stack.enter_context(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
            stack.callback(engine.kill)
            eventually(lambda: "ready" in home.events(name))  # noqa: B023  # it is over by then
    assert home.events("plain") == ["start", "ready"]
    assert home.events("large") == ["beside_another", "start", "overfull", "ready"]


async def test_what_others_take_while_a_model_loads_does_not_keep_it_awake(
    home: GatewayHome, device: FakeDevice
) -> None:
    """It is put to sleep once it has given back what it took itself."""
    configure(home, device, random.Random(AUTO_IS_FAULTY))  # noqa: S311  # chance, not secrets
    async with running(home, device) as house:
        loading = asyncio.create_task(house.switcher.switch("sleeper"))
        await house.until(lambda: "start" in home.events("sleeper"))
        device.reserve(1_000)
        await loading
        device.reserve(0)
        await house.switcher.switch("plain")
        asleep = house.switcher.entries["sleeper"].state
        await house.switcher.unload([*house.switcher.entries])
        await house.empty()
    assert asleep is State.ASLEEP


async def storm(house: House, seed: int) -> Operations:
    """Do it all, then see that everybody is served and that nothing is left of it."""
    operations = Operations(house, seed)
    try:
        await operations.perform(OPERATIONS // PARTS)
        operations.leave_card()
        await operations.everybody_is_served()
        await house.switcher.unload([*house.switcher.entries])
        await house.empty()
    finally:
        tell(operations)
    return operations


def tell(operations: Operations) -> None:
    house = operations.house
    rungs = Counter(rung_of(line) for line in house.logged if line["event"] == "rung_failed")
    for counts in (operations.outcomes, house.moves, rungs):
        print("\n".join(f"{count:6} {what}" for what, count in sorted(counts.items())))
    print(f"longest wait for an answer: {operations.longest_s:.1f} s")


@pytest.mark.parametrize("seed", range(SEED, SEED + PARTS))
async def test_random_operations(home: GatewayHome, device: FakeDevice, seed: int) -> None:
    fault = configure(home, device, random.Random(seed))  # noqa: S311  # chance, not secrets
    files, began = open_files(), time.monotonic()
    async with running(home, device) as house:
        operations = await storm(house, seed)
    print(f"seed {seed}, {fault}: {time.monotonic() - began:.0f} s")

    assert open_files() - files == Counter()
    assert house.broken == []
    assert house.bad_news() == []
    assert [line for line in house.logged if is_defect(line)] == []
    seen = operations.outcomes
    assert {
        x: seen[x] for x, n in HAPPENS.items() if seen[x] < n * OPERATIONS // PARTS // 1000
    } == {}


def rung_of(line: Mapping[str, object]) -> str:
    return f"{line['model']} {line['step']} failed: {line['reason']}"


def open_files() -> Counter[str]:
    """What this process has open, by kind or name; pytest opens /dev/null as it likes."""
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that this loop has open
            found[str(path.readlink()).partition(":[")[0]] += 1
    del found[os.devnull]
    return found


def is_defect(line: Mapping[str, object]) -> bool:
    """Whether the log tells of something that nobody has thought of."""
    return "exc_info" in line or "defect" in str(line["event"])
