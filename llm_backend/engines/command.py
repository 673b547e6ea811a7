"""Any program that serves the OpenAI API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_backend.config.catalog import Capability, CommandEngine, HelperProgram, ModelSpec
from llm_backend.engines.base import (
    EngineKind,
    HealthProbe,
    Helper,
    LaunchPlan,
    WeightsStore,
    fingerprint,
    probe_of,
    require_weights,
)
from llm_backend.errors import EngineStartFailed


def plan(spec: ModelSpec, engine: CommandEngine, store: WeightsStore) -> LaunchPlan:
    """Return the launch plan: the catalog's command line with its blanks filled in.

    `{port}` and the ports of helpers stay for the runtime, which knows them only at the start.

    Raises:
        EngineStartFailed: the weights are missing.
    """
    weights = require_weights(spec, store)
    commands = (engine.argv, *(helper.argv for helper in engine.helpers))
    if weights is None and any("{weights}" in part for argv in commands for part in argv):
        raise EngineStartFailed(
            f"The command of {spec.id!r} uses {{weights}}, and the model names none.",
            hint="Add `weights` to the model in the catalog.",
        )
    blanks = {
        "{weights}": str(weights),
        "{served_name}": spec.served_name,
        "{revision}": engine.revision or "",
    }
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.served_name,
        port=spec.port,
        argv=_filled(engine.argv, blanks),
        env=dict(spec.environment),
        cwd=engine.working_directory,
        helpers=tuple(_helper(helper, blanks) for helper in engine.helpers),
        stop_s=spec.timeouts.stop_s,
        fingerprint=fingerprint(spec, store),
    )


def _helper(helper: HelperProgram, blanks: Mapping[str, str]) -> Helper:
    return Helper(
        name=helper.name,
        argv=_filled(helper.argv, blanks),
        port=helper.port,
        ready_path=helper.ready_path,
        start_s=helper.start_s,
        env=dict(helper.environment),
        cwd=helper.working_directory,
    )


def _filled(argv: Iterable[str], blanks: Mapping[str, str]) -> tuple[str, ...]:
    # Not str.format: a command line may hold JSON.
    filled = list(argv)
    for blank, value in blanks.items():
        filled = [part.replace(blank, value) for part in filled]
    return tuple(filled)


def kind(spec: ModelSpec, engine: CommandEngine) -> EngineKind:
    """Return how such an engine is watched."""
    probe_path, probe_body = _chat_probe(spec) or probe_of(spec)
    return EngineKind(
        name=engine.kind,
        ready_path=engine.ready_path,
        progress_metric=engine.progress_metric,
        probe_path=probe_path,
        probe_body=probe_body,
        sleeps=engine.sleep_mode,
        health=tuple(_health(engine)),
    )


def _chat_probe(spec: ModelSpec) -> tuple[str, Mapping[str, Any]] | None:
    """Return the cheapest chat, for a program that has no plain completions."""
    able = frozenset(spec.capabilities)
    if Capability.CHAT not in able or Capability.COMPLETIONS in able:
        return None
    messages = [{"role": "user", "content": "a"}]
    return "/v1/chat/completions", {"messages": messages, "max_tokens": 1, "temperature": 0}


def _health(engine: CommandEngine) -> Iterator[HealthProbe]:
    """Yield what is shown of an engine's health: its helpers, itself, and what the catalog adds."""
    if engine.helpers or engine.health:
        for helper in engine.helpers:
            yield HealthProbe(helper.name, helper.name, helper.ready_path)
        yield HealthProbe("model", path=engine.ready_path)
    for name, asked in engine.health.items():
        yield HealthProbe(name, asked.helper, asked.path, asked.field)
