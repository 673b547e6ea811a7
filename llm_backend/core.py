"""The core: a switcher over its runtimes, built and released as one.

Whoever wants engines without an edge in front of them (the embedded service) builds the same core
as the gateway does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm_backend.config.catalog import Catalog, RuntimeKind
from llm_backend.config.settings import Settings
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.roster import Drivers, capacity_of, fleet_of, launches_of
from llm_backend.gpu.base import GpuProbe
from llm_backend.gpu.nvml import NvmlProbe
from llm_backend.gpu.system import Probes, SystemProbe
from llm_backend.runtimes.base import Runtime
from llm_backend.runtimes.external import ExternalRuntime
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.switching.events import Rules
from llm_backend.switching.feed import Feed
from llm_backend.switching.history import DoubtFile, History, WantedFile
from llm_backend.switching.keeper import Launch, Tools
from llm_backend.switching.lending import LoanFile
from llm_backend.switching.memory import MemoryGate, engines_of
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.residency import HOST
from llm_backend.switching.switcher import Switcher
from llm_backend.switching.watch import WatchRules
from llm_backend.weights.store import Store

RESERVE = 8
"""One of so many places in the queue is for keys with few requests in it, if there are several."""

WANTED_FILE = "wanted.json"
"""Where in the state directory a gateway keeps which models a restart must bring back."""


@dataclass(frozen=True, slots=True)
class Core:
    """A switcher and what it works on.

    Attributes:
        fleet: The models: which there are, which run here.
        switcher: Who grants leases on them; not opened yet.
        devices: What reads the devices.
    """

    fleet: Fleet
    switcher: Switcher
    devices: GpuProbe


@contextlib.asynccontextmanager
async def build_core(
    settings: Settings, catalog: Catalog, wanted: str = WANTED_FILE
) -> AsyncIterator[Core]:
    """Build runtimes and switcher; on leaving, release them. Running engines go on.

    Args:
        settings: Everything that can be set.
        catalog: All models.
        wanted: The file of the state directory that says what a restart must reach.
    """
    async with contextlib.AsyncExitStack() as stack:
        nvml = NvmlProbe(catalog.devices)
        stack.callback(nvml.close)
        devices = Probes([nvml, SystemProbe(catalog.devices)])
        drivers = _drivers(settings)
        for runtime in drivers.runtimes.values():
            stack.push_async_callback(runtime.close)
        store = Store(settings.models_dir)
        launches, unavailable = launches_of(catalog, drivers, store, devices)
        probe = EngineProbe()
        stack.push_async_callback(probe.close)
        tools = _tools(settings, catalog, devices, probe)
        rules = rules_of(settings, _capacity(settings, catalog, devices))
        files = WantedFile(settings.state_dir / wanted)
        switcher = _switcher(settings, catalog, launches, tools, rules, files)
        stack.push_async_callback(switcher.close)
        fleet = fleet_of(catalog, [x.spec.id for x in launches], unavailable)
        yield Core(fleet, switcher, devices)


def lock_dir(settings: Settings) -> Path:
    """Return the directory of the kernel locks: one for all gateways that share a device."""
    return settings.lock_dir or settings.state_dir / "locks"


def _drivers(settings: Settings) -> Drivers:
    state_dir, locks = settings.state_dir, lock_dir(settings)
    if settings.setup == "compose":
        from llm_backend.runtimes.docker import DockerRuntime  # noqa: PLC0415  # the SDK takes 0.2 s

        docker = DockerRuntime(settings.docker.host, state_dir, locks)
        own: dict[RuntimeKind, Runtime] = {RuntimeKind.DOCKER: docker}
    elif settings.setup == "external":
        own = {}
    else:
        own = {RuntimeKind.PROCESS: ProcessRuntime(state_dir, locks)}
    return Drivers({**own, RuntimeKind.EXTERNAL: ExternalRuntime(state_dir)}, settings.docker.image)


def _tools(settings: Settings, catalog: Catalog, devices: GpuProbe, probe: EngineProbe) -> Tools:
    switching = settings.switching
    history = History(settings.state_dir / "history.json")
    history.load()
    doubts = DoubtFile(settings.state_dir / "asleep.json")
    doubts.load()
    return Tools(
        MemoryGate(devices, catalog.devices, engines_of(settings.state_dir)),
        probe,
        Feed(),
        history,
        WatchRules(switching.stall_s, switching.probe_s),
        doubts,
    )


def _switcher(
    settings: Settings,
    catalog: Catalog,
    launches: Sequence[Launch],
    tools: Tools,
    rules: Rules,
    wanted: WantedFile,
) -> Switcher:
    switching, limits = settings.switching, settings.limits
    preload = catalog.find(switching.preload) if switching.preload else None
    return Switcher(
        launches,
        concurrency={
            x.spec.id: x.spec.concurrency or limits.concurrency_per_model for x in launches
        },
        rules=rules,
        tools=tools,
        wanted=wanted,
        loans=LoanFile(settings.state_dir / "device-leases.json"),
        preload=preload.id if preload else None,
    )


def _capacity(settings: Settings, catalog: Catalog, devices: GpuProbe) -> dict[str, int]:
    """Return what may be reserved, in MiB, of each device of which that is known."""
    capacity = {name: capacity_of(catalog, devices, name) for name in catalog.devices}
    known = {name: mib for name, mib in capacity.items() if mib is not None}
    return {**known, HOST: _sleep_ram_mib(settings)}


def _sleep_ram_mib(settings: Settings) -> int:
    given = settings.switching.sleep_ram_mib
    return psutil.virtual_memory().total // 2**21 if given is None else given


def rules_of(settings: Settings, capacity: Mapping[str, int]) -> Rules:
    """Return what the scheduler goes by.

    Args:
        settings: Everything that can be set.
        capacity: MiB that may be reserved, by device; a device not named is not limited.
    """
    switching, limits = settings.switching, settings.limits
    return Rules(
        queue_limit=limits.queue,
        queue_reserve=limits.queue // RESERVE if len(settings.keys) > 1 else 0,
        mode=switching.mode,
        drain_s=switching.drain_timeout_s or limits.request_timeout_s,
        unwanted_load=switching.unwanted_load,
        restore_previous=switching.restore_previous,
        capacity=capacity,
        policy=switching.policy,
        max_wait_s=switching.max_wait_s,
        batch_max_wait_s=switching.batch_max_wait_s,
    )
