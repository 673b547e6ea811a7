"""Any program that serves the OpenAI API."""

from __future__ import annotations

from llm_backend.config.catalog import CommandEngine, ModelSpec
from llm_backend.engines.base import (
    EngineKind,
    LaunchPlan,
    WeightsStore,
    fingerprint,
    probe_of,
    require_weights,
)
from llm_backend.errors import EngineStartFailed


def plan(spec: ModelSpec, engine: CommandEngine, store: WeightsStore) -> LaunchPlan:
    """Return the launch plan: the catalog's command line with its blanks filled in.

    `{port}` stays for the runtime, which knows the port only when it starts the engine.

    Raises:
        EngineStartFailed: the weights are missing.
    """
    weights = require_weights(spec, store)
    if weights is None and any("{weights}" in part for part in engine.argv):
        raise EngineStartFailed(
            f"The command of {spec.id!r} uses {{weights}}, and the model names none.",
            hint="Add `weights` to the model in the catalog.",
        )
    blanks = {"{weights}": str(weights), "{served_name}": spec.id}
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.id,
        port=spec.port,
        argv=tuple(_fill(part, blanks) for part in engine.argv),
        env=dict(spec.environment),
        cwd=engine.working_directory,
        stop_s=spec.timeouts.stop_s,
        fingerprint=fingerprint(spec, store),
    )


def _fill(part: str, blanks: dict[str, str]) -> str:
    # Not str.format: a command line may hold JSON.
    for blank, value in blanks.items():
        part = part.replace(blank, value)
    return part


def kind(spec: ModelSpec, engine: CommandEngine) -> EngineKind:
    """Return how such an engine is watched."""
    probe_path, probe_body = probe_of(spec)
    return EngineKind(
        name=engine.kind,
        ready_path=engine.ready_path,
        progress_metric=engine.progress_metric,
        probe_path=probe_path,
        probe_body=probe_body,
        sleeps=engine.sleep_mode,
    )
