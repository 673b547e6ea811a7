"""A gateway on this event loop, with engines on a card that does not exist, and what must be so.

Five models: two that stop and start, one that sleeps at level 1, one at the level that proved
quickest, and a small one that may be awake beside them. One of the sleepers has a fault. What the
gateway believes is checked after each of its steps; what the engines see, they write down.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest
import structlog
import yaml

from llm_backend.config import load_catalog, load_settings
from llm_backend.gateway.protocol import bounded_protocol
from llm_backend.runtimes.locks import is_held
from llm_backend.runtimes.marks import STATE_VARIABLE
from llm_backend.server import _parts
from llm_backend.switching.entry import Entry
from llm_backend.switching.feed import Notice
from llm_backend.switching.states import SERVING, State
from llm_backend.switching.switcher import Switcher
from llm_backend.testing.fake_flags import FAULTS
from tests.harness import GatewayHome, fake_model
from tests.integration.devices import CARD_MIB
from tests.integration.gateways import key_setting
from tests.integration.test_departures import Inside, Server, tasks
from tests.integration.witnessed_engine import command
from tests.nvml.library import DEVICE_VARIABLE, FakeDevice, build

KEYS = ("alice", "bob", "carol")
AWAKE_MIB = {"plain": 9_000, "large": 12_500, "sleeper": 9_000, "auto": 9_000, "small": 3_000}
"""`small` and `large` do not fit together."""
ASLEEP_MIB = {1: 500, 2: 300}
ROOM_MIB = 14_767
"""What models may take of the card together: the rest is head-room, or above its ceiling."""
RESIDENCIES = {"sleeper": "asleep-1", "auto": "auto"}
LOAD_S = "0.5"
"""How long those who can sleep take to start: they had better sleep."""
CONCURRENCY = 8
HELD = SERVING | {State.STARTING, State.STOPPING}
"""The states in which an engine may have all that its model reserves."""
BAD_NEWS = {"asleep_request", "beside_another", "overfull"}
"""What no engine may ever write down."""
WAIT_S, ANSWER_S, BATCH_S = 30, 15, 5
"""The longest wait in line, the longest answer, and how much longer a batch request waits."""


def flags_of(home: GatewayHome, device: FakeDevice, name: str) -> list[str]:
    held = [f"--asleep-{level}-mib={mib}" for level, mib in ASLEEP_MIB.items()]
    journal = str(home.root / f"{name}.jsonl")
    return [
        *("--served-model-name", name, "--journal", journal, "--token-delay-s", "0.005"),
        *("--tokens", "60", "--device-memory", str(device.folder)),
        *(f"--awake-mib={AWAKE_MIB[name]}", *held),
        *(["--sleep-mode", "--load-s", LOAD_S] if name in RESIDENCIES else []),
    ]


def model(home: GatewayHome, device: FakeDevice, name: str, *flags: str) -> dict[str, Any]:
    group = "small" if name == "small" else "big"
    argv = command(home.root / f"{group}.witness", ROOM_MIB, *flags_of(home, device, name), *flags)
    entry = fake_model(home.root, name, devices=["gpu0"], group=group, concurrency=CONCURRENCY)
    asleep = {f"asleep-{level}": mib for level, mib in ASLEEP_MIB.items()}
    return {
        **entry,
        "engine": {**entry["engine"], "argv": argv, "sleep_mode": name in RESIDENCIES},
        "residency": RESIDENCIES.get(name, "stop"),
        "memory_mib": {"awake": AWAKE_MIB[name], **asleep, "host": 0},
        "timeouts": {"start_s": 30, "stop_s": 1, "memory_s": 1, "sleep_s": 8, "wake_s": 8},
    }


def configure(home: GatewayHome, device: FakeDevice, chance: random.Random) -> str:
    """Write the configuration; return which fault which model has."""
    faulty, fault = chance.choice(sorted(RESIDENCIES)), chance.choice(FAULTS)
    flags = {faulty: ["--sleep-fault", fault]}
    models = {name: model(home, device, name, *flags.get(name, [])) for name in AWAKE_MIB}
    home.configure(
        models,
        keys=[key_setting(name, "infer") for name in KEYS],
        switching={
            "drain_timeout_s": 2,
            "max_wait_s": 2,
            "batch_max_wait_s": BATCH_S,
            "stall_s": 1.5,
            "probe_s": 1.5,
            "policy": chance.choice(["fair", "fair", "fifo"]),
        },
        limits={"queue_timeout_s": WAIT_S, "request_timeout_s": ANSWER_S},
    )
    path = home.root / "config/models.yaml"
    catalog = yaml.safe_load(path.read_text())
    catalog["devices"]["gpu0"] = {"kind": "cuda", "index": 0}
    path.write_text(yaml.safe_dump(catalog, sort_keys=False))
    return f"{faulty}: {fault}"


@contextmanager
def card(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """Have the real NVML probe of this process read a device that does not exist."""
    device = FakeDevice(folder / "card", CARD_MIB)
    library = ctypes.CDLL(str(build(folder / "nvml") / "libnvidia-ml.so.1"))
    with patch.context() as inner:
        inner.setenv(DEVICE_VARIABLE, str(device.folder))
        inner.setattr(pynvml, "nvmlLib", library)
        inner.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield device


@dataclass
class House(Inside):
    """The gateway, its card, and what was found to be wrong."""

    device: FakeDevice = field(kw_only=True)
    broken: list[str] = field(default_factory=list)
    moves: Counter[str] = field(default_factory=Counter)
    logged: list[Any] = field(default_factory=list)
    sinking: set[str] = field(default_factory=set)
    """Models whose engine is ended in its sleep: it takes no more than it did asleep."""

    @property
    def switcher(self) -> Switcher:
        return self.edge.switcher

    def told(self, notice: Notice) -> None:
        """Check everything once the event that this is about has been dealt with."""
        if notice.kind == "state":
            model, before, state = (notice.data[x] for x in ("model", "previous", "state"))
            self.moves[f"{before} -> {state}"] += 1
            self.sinking.discard(model)
            if (before, state) == (State.ASLEEP, State.STOPPING):
                self.sinking.add(model)
        asyncio.get_running_loop().call_soon(self.check)

    def check(self) -> None:
        """Write down whatever is not as it must be now."""
        for fault in self._faults():
            state = {m: (e.state.value, e.leases, len(e.waiting)) for m, e in self._entries()}
            self.broken.append(f"{fault}: {state}, {self.switcher.lending.loans}")

    def _entries(self) -> list[tuple[str, Entry]]:
        return list(self.switcher.entries.items())

    def _faults(self) -> Iterator[str]:
        awake = Counter(self.switcher.entries[name].needs.group for name in self._held())
        yield from (f"{n} engines in {group}" for group, n in awake.items() if n > 1)
        for name, entry in self._entries():
            yield from self._faults_of_leases(name, entry)
        in_line = {ticket for _, entry in self._entries() for ticket in entry.waiting}
        if forgotten := in_line ^ self.switcher._lines.keys():
            yield f"tickets {forgotten} are in one of the two lines only"
        reserved, lent = self.reserved_mib(), list(self._lent())
        if reserved + sum(mib or 0 for mib in lent) > ROOM_MIB or (None in lent and reserved):
            yield f"{reserved} MiB are reserved, and lent: {lent}"

    def _faults_of_leases(self, name: str, entry: Entry) -> Iterator[str]:
        leases, keeper = self.switcher._leases[name], self.switcher.keeper(name)
        if not len(leases) == entry.leases <= CONCURRENCY:
            yield f"{entry.leases} leases of {name} are counted, and {len(leases)} are out"
        held = [lease for lease in leases if lease.error is None]
        if held and (entry.state not in SERVING or keeper.rung is not None):
            yield f"{len(held)} leases on {name}, which is not awake"
        if any(lease.engine is not keeper.engine for lease in held):
            yield f"a lease on an engine of {name} that is not there any more"

    def reserved_mib(self) -> int:
        """What the engines of now may take of the card."""
        awake = sum(AWAKE_MIB[name] for name in self._held())
        asleep = (
            e.rung for n, e in self._entries() if e.state is State.ASLEEP or n in self.sinking
        )
        return awake + sum(ASLEEP_MIB[rung] for rung in asleep if rung)

    def _held(self) -> list[str]:
        """The models whose engines may have all that they reserve."""
        return [n for n, e in self._entries() if e.state in HELD and n not in self.sinking]

    def _lent(self) -> Iterable[int | None]:
        return (x.lease.mib for x in self.switcher.lending.loans.values() if x.ready)

    def engine_of(self, name: str) -> psutil.Process | None:
        """Return the process of the engine that a model has, as its journal tells; it may be gone."""
        starts = [line["pid"] for line in self.home.journal(name) if line["event"] == "start"]
        try:
            process = psutil.Process(starts[-1])
            mark = str((self.home.root / "state").resolve())
            ours = process.environ().get(STATE_VARIABLE) == mark
        except (psutil.Error, IndexError):
            return None
        return process if ours else None

    def bad_news(self) -> list[dict[str, Any]]:
        """What engines wrote down and never should have."""
        journals = (self.home.journal(name) for name in AWAKE_MIB)
        return [line for lines in journals for line in lines if line["event"] in BAD_NEWS]

    async def empty(self) -> None:
        """Wait until nothing is left of all that was done; every engine has been unloaded."""
        with contextlib.suppress(TimeoutError):
            await self.until(lambda: not self.left_behind())
        assert not (left := self.left_behind()), left

    def left_behind(self) -> dict[str, object]:
        """What must not be there once every engine has been unloaded."""
        locks = [p.name for p in (self.home.root / "state/locks").glob("*") if is_held(p)]
        alive = [pid for pid in self.device.holders() if psutil.pid_exists(pid)]
        found = {
            **self.counts(),
            "lines": len(self.switcher._lines),
            "operators": len(self.switcher._operators),
            "loans": len(self.switcher.lending.loans),
            "lending": self.switcher.lending._tasks,
            "engines": [k for k in AWAKE_MIB if self.switcher.keeper(k).engine is not None],
            "processes": self.home.engine_processes(),
            "locks": locks,
            "holders": alive,
        }
        return {name: thing for name, thing in found.items() if thing}


@asynccontextmanager
async def running(home: GatewayHome, device: FakeDevice) -> AsyncIterator[House]:
    """Run a gateway on this event loop until the block ends."""
    settings = load_settings(home.root, {}, {})
    async with _parts(settings, load_catalog(settings.catalog)) as edge:
        await edge.switcher.open()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = Server(edge, bounded_protocol(32 * 1024, 10, 10))
        port = listener.getsockname()[1]
        with ExitStack() as stack:
            logged = stack.enter_context(structlog.testing.capture_logs())
            house = House(edge, server, home, port, device=device, logged=logged)
            for told in (house.told, edge.narrator):
                stack.enter_context(edge.switcher.feed.listening(told))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await house.until(lambda: server.started)
            house.tasks_at_rest = tasks()
            try:
                yield house
            finally:
                server.should_exit = True
                await serving
