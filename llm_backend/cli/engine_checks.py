"""The engines of the compose set-up: do options, catalog, card and containers agree?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_backend.cli import docker
from llm_backend.cli.compose import catalog_containers, stack_of
from llm_backend.cli.compose_checks import attention_problem, check_before_start
from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.control import Control, find_gateway
from llm_backend.cli.machine import Machine
from llm_backend.cli.project import Project
from llm_backend.cli.setups import Check
from llm_backend.cli.terminal import mib
from llm_backend.config.base import Origin
from llm_backend.config.catalog import Capability, ModelSpec, RuntimeKind, VllmEngine
from llm_backend.config.problems import Problem
from llm_backend.engines.vllm_attention import Attention, attention_in
from llm_backend.engines.vllm_memory import DEFAULT_UTILIZATION, Demand, Fit, Geometry, fit
from llm_backend.engines.vllm_options import disagreements, read_options
from llm_backend.errors import LLMBackendError, SetupError
from llm_backend.weights.store import Store

RECREATE = "llm-backend stop, then: llm-backend start --setup compose"
"""What makes containers anew."""
SLACK = 0.01
"""How far the catalog's reservation and vLLM's share may differ, as a part of the latter."""
LOG_LINES = 10_000
"""How far back an engine's log is searched for what it said at its start."""
CONFIG_HASH = "com.docker.compose.config-hash"


def specs(project: Project) -> Iterator[ModelSpec]:
    """Yield the models whose engines are vLLM in containers."""
    for spec in project.catalog.runnable(frozenset({RuntimeKind.DOCKER})):
        if isinstance(spec.engine, VllmEngine):
            yield spec


def option_problems(project: Project) -> Iterator[Problem]:
    """Yield where an engine's options file contradicts the catalog.

    Raises:
        ConfigError: a file is missing, or is no mapping.
    """
    for spec in specs(project):
        if not isinstance(spec.engine, VllmEngine) or spec.engine.config_file is None:
            continue
        path = Path(spec.engine.config_file)
        shown = str(path.relative_to(project.root) if path.is_relative_to(project.root) else path)
        for text in disagreements(spec, read_options(spec)):
            yield Problem(Origin("file", shown, spec.id), text)


def stale_containers(project: Project) -> dict[str, str]:
    """Return the engines' containers that have to be made anew, with the reason.

    Empty where no start has made containers.

    Raises:
        SetupError: Docker does not answer, or docker-compose.yml is wrong.
    """
    stack = stack_of(project)
    if stack is None:
        return {}
    hashes = stack.config_hashes()
    variables = ComposeEnv(project)
    found = {name: _staleness(name, hashes[name], variables) for name in stack.engine_containers()}
    missing = {name for name, _ in catalog_containers(project)} - found.keys()
    found |= dict.fromkeys(missing, "docker-compose.yml has no such service")
    return {name: reason for name, reason in sorted(found.items()) if reason}


def _staleness(container: str, wanted: str, variables: ComposeEnv) -> str | None:
    """Say what of a container is not as it would be made now; None where all of it is."""
    answer = docker.ask("container", "inspect", container)
    if not answer.ok:
        return "it has not been made"
    made: dict[str, Any] = json.loads(answer.out)[0]
    image = variables.get("VLLM_IMAGE")
    if made["Config"]["Image"] != image:
        return f"it was made of the image {made['Config']['Image']}, and VLLM_IMAGE is {image}"
    present = docker.ask("image", "inspect", "--format", "{{.Id}}", image)
    if present.ok and present.out != made["Image"]:
        return f"the image {image} is another one now"
    labels = made["Config"]["Labels"] or {}
    if labels.get("llm-backend.options") != variables.current("ENGINE_OPTIONS"):
        return "config/engines/ has changed since it was made"
    if labels.get(CONFIG_HASH) != wanted:
        return "docker-compose.yml or .env has changed since it was made"
    return None


def fits(project: Project, machine: Machine) -> Iterator[Check]:
    """Yield for each engine how weights, working memory and cache fit on its card."""
    store, variables = Store(project.models_dir), ComposeEnv(project)
    for spec in specs(project):
        name = spec.devices[0]
        snapshot, device = machine.devices[name], project.catalog.devices[name]
        total = snapshot.total_mib if snapshot else device.memory_mib
        if total is None or spec.weights is None:
            continue
        demand = _demand(spec, store, variables)
        free = snapshot.free_mib if snapshot and stack_of(project) is None else None
        check = _as_check(spec, demand, fit(demand, total, free), total)
        room = device.room_mib(total)
        yield check if room is None else _within(check, spec, demand, room, total)


def _demand(spec: ModelSpec, store: Store, variables: ComposeEnv) -> Demand:
    options = read_options(spec)
    share = variables.get("GPU_MEMORY_UTILIZATION") or options.get("gpu-memory-utilization")
    try:
        utilization = float(share or DEFAULT_UTILIZATION)
    except ValueError:
        raise SetupError(
            f"GPU_MEMORY_UTILIZATION is {share!r}, and that is no share.",
            hint="Write one such as 0.85 into .env, or nothing.",
        ) from None
    return Demand(
        weights_mib=(store.size_mib(spec.weights) if spec.weights else None) or 0,
        vision=Capability.VISION in spec.capabilities,
        utilization=utilization,
        max_model_len=int(options.get("max-model-len") or spec.max_model_len or 0),
        geometry=_geometry(spec, store),
        cache_dtype=str(options.get("kv-cache-dtype", "auto")),
    )


def _geometry(spec: ModelSpec, store: Store) -> Geometry | None:
    path = store.locate(spec.weights) if spec.weights else None
    if path is None:
        return None
    try:
        config: Mapping[str, Any] = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    return Geometry.of(config)


def _as_check(spec: ModelSpec, demand: Demand, result: Fit, total_mib: int) -> Check:
    room = f"{mib(max(0, result.cache))} of cache"
    if result.tokens is not None:
        room += f" for {result.tokens} tokens"
    detail = (
        f"{mib(result.share)} ({demand.utilization:.2f} of {mib(total_mib)}): "
        f"{mib(demand.weights_mib)} of weights, about {mib(result.overhead)} to work with, {room}."
    )
    name = f"memory of {spec.id}"
    if result.advice is None:
        return _reserved(spec, result, name, detail)
    told = f"{detail} But {result.advice}."
    return Check(name, ok=False, detail=told, next=f"Change {_options_file(spec)}")


def _within(check: Check, spec: ModelSpec, demand: Demand, room: int, total_mib: int) -> Check:
    """Say where vLLM takes what the catalog leaves to others; the gateway would never start it."""
    share = int(total_mib * demand.utilization)
    if share <= room:
        return check
    return Check(
        check.name,
        ok=False,
        detail=f"{mib(share)} ({demand.utilization:.2f} of {mib(total_mib)}) are more than the "
        f"{mib(room)} that models may take of {spec.devices[0]}; the rest is for others.",
        next=f"Set gpu-memory-utilization to {room * 100 // total_mib / 100:.2f} or less in "
        f"{_options_file(spec)}, or GPU_MEMORY_UTILIZATION in .env where that is set",
    )


def _options_file(spec: ModelSpec) -> str | None:
    return spec.engine.config_file if isinstance(spec.engine, VllmEngine) else None


def _reserved(spec: ModelSpec, result: Fit, name: str, detail: str) -> Check:
    """Say where the gateway waits for more free memory than vLLM takes, or for less."""
    awake = spec.memory_mib.awake
    if abs(awake - result.share) <= SLACK * result.share:
        return Check(name, ok=True, detail=detail)
    return Check(
        name,
        ok=False,
        detail=f"{detail} But the catalog reserves {awake} MiB for it.",
        next=f"In config/models.yaml set memory_mib.awake of {spec.id} to {result.share}",
    )


def attention_check(project: Project) -> Check:
    """Return what attention is asked for and, of an engine that is awake, what is in force."""
    variables = ComposeEnv(project)
    problem = attention_problem(variables)
    if problem is not None:
        return Check("attention", ok=False, detail=problem.message, next=problem.hint)
    asked = variables.get("VLLM_ATTENTION_BACKEND") or "nothing"
    found = _attention_now(project)
    used = f"in force: {found}" if found else "what is in force, the log of an awake engine tells"
    return Check("attention", ok=True, detail=f"{asked} is asked for; {used}")


def _attention_now(project: Project) -> Attention | None:
    record = find_gateway(project.state_dir)
    if record is None:
        return None
    with Control(record, project.state_dir) as control:
        try:
            model = control.status().get("model")
        except LLMBackendError:
            return None
        return attention_in_force(project, control, model)


def attention_in_force(project: Project, control: Control, model: str | None) -> Attention | None:
    """Return what a model's engine says of its attention; None where its log says nothing."""
    spec = project.catalog.find(model) if model else None
    if spec is None or not isinstance(spec.engine, VllmEngine):
        return None
    try:
        return attention_in(control.log(spec.id, LOG_LINES)) or None
    except LLMBackendError:
        return None


def start_check(project: Project) -> Check:
    """Return whether ports, disk and options allow a start with containers."""
    name = "ports and disk of the containers"
    try:
        stack = stack_of(project)
        check_before_start(project, ComposeEnv(project), stack.running() if stack else ())
    except SetupError as error:
        return Check(name, ok=False, detail=error.message, next=error.hint)
    return Check(name, ok=True, detail="free, or ours")
