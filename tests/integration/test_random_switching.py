"""Random operations on a card whose models switch, sleep, fail, and have to make way for others.

OPERATIONS=N in the environment does more of them, and OPERATIONS_SEED=N others; with `-s` one sees
what came of them.
"""

from __future__ import annotations

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

from tests.harness import GatewayHome, eventually, gateway_home
from tests.integration.random_house import ROOM_MIB, House, card, configure, flags_of, running
from tests.integration.random_operations import Operations
from tests.integration.witnessed_engine import command
from tests.nvml.library import FakeDevice
from tests.unit.gateway.rig import LOOPS

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.slow]

OPERATIONS: Final = int(os.environ.get("OPERATIONS", "1000"))
SEED: Final = int(os.environ.get("OPERATIONS_SEED", "5"))
HAPPENS: Final = {
    "asked: served": 400,
    "left": 100,
    "switch: done": 5,
    "unload: done": 5,
    "killed": 8,
    "froze": 4,
    "lease: done": 3,
    "memory: named": 1,
    "memory: nameless": 1,
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


async def storm(house: House) -> Operations:
    """Do it all, then see that everybody is served and that nothing is left of it."""
    operations = Operations(house, SEED)
    try:
        await operations.perform(OPERATIONS)
        operations.leave_card()
        await operations.everybody_is_served()
        await house.switcher.unload([*house.switcher.entries])
        await house.empty()
    finally:
        tell(operations)
    return operations


def tell(operations: Operations) -> None:
    for counts in (operations.outcomes, operations.house.moves):
        print("\n".join(f"{count:6} {what}" for what, count in sorted(counts.items())))
    print(f"longest wait for an answer: {operations.longest_s:.1f} s")


async def test_random_operations(home: GatewayHome, device: FakeDevice) -> None:
    fault = configure(home, device, random.Random(SEED))  # noqa: S311  # chance, not secrets
    files, began = open_files(), time.monotonic()
    async with running(home, device) as house:
        operations = await storm(house)
    print(f"{OPERATIONS} operations, {fault}: {time.monotonic() - began:.0f} s")

    assert open_files() - files == Counter()
    assert house.broken == []
    assert house.bad_news() == []
    assert [line for line in house.logged if is_defect(line)] == []
    seen = operations.outcomes
    assert {x: seen[x] for x, n in HAPPENS.items() if seen[x] < n * OPERATIONS // 1000} == {}


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
