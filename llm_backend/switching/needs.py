"""What a model takes of its devices, awake and asleep: from its catalog entry to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines.base import EngineKind
from llm_backend.switching.events import Needs
from llm_backend.switching.residency import HOST, Rung


def needs_of(spec: ModelSpec, kind: EngineKind, concurrency: int) -> Needs:
    """Return what the scheduler knows of a model.

    Args:
        spec: Its entry of the catalog.
        kind: What its kind of engine can do.
        concurrency: Leases that may be out at once.
    """
    return Needs(
        model=spec.id,
        group=spec.exclusivity_group,
        concurrency=concurrency,
        mib=dict.fromkeys(spec.devices, spec.memory_mib.awake),
        pinned=spec.pinned,
        idle_ttl_s=spec.idle_ttl_s,
        rungs=_rungs(spec) if kind.sleeps else {},
        rung_by_time=spec.residency == "auto",
    )


def _rungs(spec: ModelSpec) -> Mapping[Rung, Mapping[str, int]]:
    rungs = {
        level: dict.fromkeys(spec.devices, spec.memory_mib.asleep(level))
        for level in spec.sleep_levels
    }
    if 1 in rungs:
        rungs[1][HOST] = spec.host_mib
    return rungs
