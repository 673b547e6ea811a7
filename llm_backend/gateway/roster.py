"""Which models of the catalog can run here, how they are launched, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_backend.config.catalog import Catalog, ModelSpec, RuntimeKind
from llm_backend.engines import kind_of, plan_for
from llm_backend.engines.base import WeightsStore
from llm_backend.engines.llamacpp import unavailable_reason
from llm_backend.gateway.fleet import Fleet
from llm_backend.gpu.base import GpuProbe
from llm_backend.runtimes.base import Runtime
from llm_backend.switching.keeper import Launch

_WAYS = {
    RuntimeKind.DOCKER: "a container",
    RuntimeKind.PROCESS: "a process",
    RuntimeKind.EXTERNAL: "a server elsewhere",
}


def launches_of(
    catalog: Catalog,
    runtimes: Mapping[RuntimeKind, Runtime],
    store: WeightsStore,
    devices: GpuProbe,
) -> tuple[list[Launch], dict[str, str]]:
    """Tell the models that can run here from those that cannot, with the reason."""
    launches: list[Launch] = []
    unavailable: dict[str, str] = {}
    for spec in catalog:
        kind = next((r for r in spec.runtimes if r in runtimes), None)
        reason = _why_not(spec, kind, catalog, devices)
        if kind is None or reason is not None:
            unavailable[spec.id] = reason or "no runtime"
        else:
            launches.append(_launch(spec, kind, runtimes[kind], store))
    return launches, unavailable


def _launch(spec: ModelSpec, kind: RuntimeKind, runtime: Runtime, store: WeightsStore) -> Launch:
    return Launch(spec, kind_of(spec), runtime, lambda: plan_for(spec, store, kind))


def _why_not(
    spec: ModelSpec, kind: RuntimeKind | None, catalog: Catalog, devices: GpuProbe
) -> str | None:
    if kind is None:
        ways = " or ".join(_WAYS[runtime] for runtime in spec.runtimes)
        return f"its engine is {ways}, and this set-up runs processes only"
    if spec.engine.kind == "llama.cpp" and (reason := unavailable_reason()):
        return reason
    for name in spec.devices:
        room = capacity_of(catalog, devices, name)
        if room is None and catalog.devices[name].kind == "cuda":
            return f"its device {name} is not to be seen: no NVIDIA driver, or no such GPU"
        if room is not None and spec.memory_mib.awake > room:
            return f"it needs {spec.memory_mib.awake} MiB and {name} has {room}"
    return None


def capacity_of(catalog: Catalog, devices: GpuProbe, name: str) -> int | None:
    """Return what may be reserved on a device: what is set, else all that it has."""
    reading = devices.read(name)
    limits = [catalog.devices[name].memory_mib, reading.total_mib if reading else None]
    known = [mib for mib in limits if mib is not None]
    if reading is None and catalog.devices[name].kind == "cuda":
        return None
    return min(known) if known else None


def fleet_of(catalog: Catalog, runnable: Sequence[str], unavailable: Mapping[str, str]) -> Fleet:
    """Return the models as the edge sees them; the default is the first that can run."""
    preferred = [m for m in catalog.default if m in runnable]
    return Fleet(catalog, unavailable, default=next(iter([*preferred, *runnable]), None))
