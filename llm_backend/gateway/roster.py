"""Which models of the catalog can run here, how they are launched, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_backend.config.catalog import Catalog, ModelSpec, RuntimeKind
from llm_backend.engines import kind_of, plan_for
from llm_backend.engines.base import LaunchPlan, WeightsStore
from llm_backend.engines.launch_options import LaunchOptions, altered
from llm_backend.engines.llamacpp import unavailable_reason
from llm_backend.errors import InvalidRequest
from llm_backend.gateway.fleet import Fleet
from llm_backend.gpu.base import GpuProbe
from llm_backend.runtimes.base import Runtime
from llm_backend.switching.keeper import Launch
from llm_backend.weights.page_cache import weight_files

_WAYS = {
    RuntimeKind.DOCKER: "a container",
    RuntimeKind.PROCESS: "a process",
    RuntimeKind.EXTERNAL: "a server elsewhere",
}
_ONLY = {
    RuntimeKind.DOCKER: "containers",
    RuntimeKind.PROCESS: "processes",
    RuntimeKind.EXTERNAL: "servers elsewhere",
}


@dataclass(frozen=True, slots=True)
class Drivers:
    """What runs engines in this set-up.

    Attributes:
        runtimes: The driver of each kind.
        image: What containers are made of, if known.
    """

    runtimes: Mapping[RuntimeKind, Runtime]
    image: str | None = None


def launches_of(
    catalog: Catalog, drivers: Drivers, store: WeightsStore, devices: GpuProbe
) -> tuple[list[Launch], dict[str, str]]:
    """Tell the models that can run here from those that cannot, with the reason."""
    launches: list[Launch] = []
    unavailable: dict[str, str] = {}
    for spec in catalog:
        kind = next((r for r in spec.runtimes if r in drivers.runtimes), None)
        if kind is None:
            ways = " or ".join(_WAYS[runtime] for runtime in spec.runtimes)
            only = " and ".join(_ONLY[runtime] for runtime in drivers.runtimes)
            unavailable[spec.id] = f"its engine is {ways}, and this set-up runs {only} only"
        elif (reason := _why_not(spec, kind, catalog, devices)) is not None:
            unavailable[spec.id] = reason
        else:
            launches.append(_launch(spec, kind, drivers, store, devices))
    return launches, unavailable


def _launch(
    spec: ModelSpec, kind: RuntimeKind, drivers: Drivers, store: WeightsStore, devices: GpuProbe
) -> Launch:
    def plan(options: LaunchOptions) -> LaunchPlan:
        changed = altered(spec, options, kind)
        _check_share(spec, options, devices)
        return plan_for(changed, store, kind, drivers.image)

    return Launch(
        spec,
        kind_of(spec),
        drivers.runtimes[kind],
        plan,
        lambda: _files(spec, store),
    )


def _check_share(spec: ModelSpec, options: LaunchOptions, devices: GpuProbe) -> None:
    """Refuse a share of a device that is more than the model reserves there.

    Raises:
        InvalidRequest: it is; says how much it may be.
    """
    reserved, share = spec.memory_mib.awake, options.gpu_memory_utilization or 0.0
    for name in spec.devices if reserved and share else ():
        reading = devices.read(name)
        if reading is not None and share * reading.total_mib > reserved + 1:  # it was rounded
            most = 100 * reserved // reading.total_mib / 100  # rounded down: it has to be taken
            raise InvalidRequest(
                f"{share:g} of {name} are {share * reading.total_mib:.0f} MiB, and {spec.id} "
                f"reserves {reserved}.",
                hint=f"Take at most {most:.2f}, or raise "
                f"models.{spec.id}.memory_mib.awake in config/models.yaml.",
                param="gpu_memory_utilization",
            )


def _files(spec: ModelSpec, store: WeightsStore) -> list[Path]:
    """Return the files of a model's weights that are here."""
    if spec.weights is None:
        return []
    found = (store.locate(spec.weights), store.companion(spec.weights))
    return [file for path in found if path is not None for file in weight_files(path)]


def _why_not(spec: ModelSpec, kind: RuntimeKind, catalog: Catalog, devices: GpuProbe) -> str | None:
    if spec.engine.kind == "llama.cpp" and (reason := unavailable_reason()):
        return reason
    for name in spec.devices:
        unseen = _unseen(catalog, devices, name)
        # Docker hands a GPU to its containers that this process need not see.
        if unseen and kind is not RuntimeKind.DOCKER:
            return f"its device {name} is not to be seen: no NVIDIA driver, or no such GPU"
        room = capacity_of(catalog, devices, name)
        if room is not None and spec.memory_mib.awake > room:
            return (
                f"it needs {spec.memory_mib.awake} MiB and models may take {room} of {name} "
                f"(devices.{name} of the catalog sets the head-room)"
            )
    return None


def _unseen(catalog: Catalog, devices: GpuProbe, name: str) -> bool:
    return catalog.devices[name].kind == "cuda" and devices.read(name) is None


def capacity_of(catalog: Catalog, devices: GpuProbe, name: str) -> int | None:
    """Return what models may reserve on a device together, in MiB; None where nobody knows."""
    reading = devices.read(name)
    return catalog.devices[name].room_mib(reading.total_mib if reading else None)


def fleet_of(catalog: Catalog, runnable: Sequence[str], unavailable: Mapping[str, str]) -> Fleet:
    """Return the models as the edge sees them; the default is the first that can run."""
    preferred = [m for m in catalog.default if m in runnable]
    return Fleet(catalog, unavailable, default=next(iter([*preferred, *runnable]), None))
