"""vLLM's OpenAI server: a container that compose made, or a process of this machine."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from llm_backend.config.catalog import HubWeights, ModelSpec, Scalar, VllmEngine
from llm_backend.engines.base import (
    EngineKind,
    LaunchPlan,
    Progress,
    WeightsStore,
    fingerprint,
    probe_of,
    require_weights,
)
from llm_backend.errors import EngineStartFailed

_CONTAINER_PORT: Final = 8000
"""Where vLLM listens in its container, unless the catalog says otherwise."""

SLEEP_OPTION: Final = "enable-sleep-mode"
"""Lets vLLM give back its memory and stay (GPUs only)."""

_COUNTED: Final = (
    (re.compile(r"Loading \S+ checkpoint shards:.*?(\d+)/(\d+)"), "loading weights"),
    (re.compile(r"Capturing CUDA graphs.*?(\d+)/(\d+)"), "capturing CUDA graphs"),
)
_STEPS: Final = (
    (re.compile(r"Starting to load model"), Progress("loading weights", 0.0)),
    (re.compile(r"Loading weights took"), Progress("weights loaded", 1.0)),
    (re.compile(r"Model loading took"), Progress("measuring memory")),
    (re.compile(r"KV cache size:"), Progress("warming up")),
    (re.compile(r"Graph capturing finished"), Progress("CUDA graphs captured", 1.0)),
    (re.compile(r"init engine .*took"), Progress("starting the server")),
    (re.compile(r"Starting vLLM server on"), Progress("starting the server")),
    (re.compile(r"Application startup complete"), Progress("ready", 1.0)),
)


def process_plan(spec: ModelSpec, engine: VllmEngine, store: WeightsStore) -> LaunchPlan:
    """Return the launch plan of vLLM as a child process.

    Raises:
        EngineStartFailed: interpreter, configuration file or weights are missing.
    """
    python = _interpreter(spec.id, engine)
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.id,
        port=spec.port,
        argv=(python, "-m", "vllm.entrypoints.openai.api_server", *_arguments(spec, engine, store)),
        env=_environment(spec),
        stop_s=spec.timeouts.stop_s,
        fingerprint=_fingerprint(spec, engine, store, _versions(python)),
    )


def _environment(spec: ModelSpec) -> dict[str, str]:
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if spec.residency != "stop":
        ours["VLLM_SERVER_DEV_MODE"] = "1"  # its sleep routes exist only so
    return {**ours, **spec.environment}


def container_plan(
    spec: ModelSpec, engine: VllmEngine, store: WeightsStore, image: str | None = None
) -> LaunchPlan:
    """Return name and address of the container that compose made.

    Args:
        spec: The model.
        engine: Its launch options.
        store: Knows the identity of the weights.
        image: What the container is made of, for the fingerprint.

    Raises:
        EngineStartFailed: the catalog names no container or a file that is not there, or the
            weights are missing.
    """
    if engine.container is None:
        raise EngineStartFailed(
            f"The model {spec.id!r} names no container.",
            hint="Add `container` to its engine in the catalog.",
        )
    if isinstance(spec.weights, HubWeights):
        require_weights(spec, store)  # the container is offline: it would only fail later
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.id,
        host=engine.container,
        port=spec.port or _CONTAINER_PORT,
        container=engine.container,
        stop_s=spec.timeouts.stop_s,
        fingerprint=_fingerprint(spec, engine, store, (image,) if image else ()),
    )


def _interpreter(model: str, engine: VllmEngine) -> str:
    python = shutil.which(str(Path(engine.python or sys.executable).expanduser()))
    if python is None:
        raise EngineStartFailed(
            f"The model {model!r} is to run with {engine.python}, and there is no such program.",
            hint="Install vLLM into a virtual environment and name its `python` in the catalog.",
        )
    return python


def _arguments(spec: ModelSpec, engine: VllmEngine, store: WeightsStore) -> Iterator[str]:
    weights = require_weights(spec, store)
    if engine.config_file is not None:
        yield from ("--config", str(_config_path(spec.id, engine.config_file)))
    yield from _flags(_options(spec, engine))
    # Last, because vLLM takes the last of two: options cannot open the engine to the network.
    if weights is not None:
        yield from ("--model", str(weights))
    yield from ("--served-model-name", spec.id, "--host", "127.0.0.1", "--port", "{port}")


def _options(spec: ModelSpec, engine: VllmEngine) -> Mapping[str, Scalar | None]:
    """Return its options; an engine that is to sleep needs one, which `false` leaves out."""
    return engine.options if spec.residency == "stop" else {SLEEP_OPTION: True, **engine.options}


def _flags(options: Mapping[str, Scalar | None]) -> Iterator[str]:
    for name, value in options.items():
        if value is True:
            yield f"--{name}"
        elif value is not None and value is not False:
            yield from (f"--{name}", str(value))


def _config_path(model: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise EngineStartFailed(
            f"The engine of {model!r} is configured in {path}, and there is no such file.",
            hint="Correct `config_file` in the catalog.",
        )
    return path


def _fingerprint(
    spec: ModelSpec, engine: VllmEngine, store: WeightsStore, versions: tuple[str, ...]
) -> str:
    if engine.config_file is None:
        return fingerprint(spec, store, *versions)
    config = _config_path(spec.id, engine.config_file).read_text(encoding="utf-8")
    return fingerprint(spec, store, config, *versions)


def _versions(python: str) -> tuple[str, ...]:
    """Return vLLM and its plugins in the interpreter's environment, without running it."""
    site_packages = Path(python).parent.parent.glob("lib/python3*/site-packages")
    found = (p.name for place in site_packages for p in place.glob("vllm*.dist-info"))
    return tuple(sorted(found))


def progress_of(line: str) -> Progress | None:
    """Read a log line of vLLM; None where it says nothing about the load.

    A line can hold several states of a progress bar, parted by carriage returns: the last
    one counts.
    """
    for part in reversed(line.split("\r")):
        progress = _progress(part)
        if progress is not None:
            return progress
    return None


def _progress(text: str) -> Progress | None:
    for pattern, step in _COUNTED:
        if match := pattern.search(text):
            done, total = int(match[1]), int(match[2])
            return Progress(f"{step} ({done}/{total})", min(1.0, done / total) if total else None)
    return next((step for pattern, step in _STEPS if pattern.search(text)), None)


def kind(spec: ModelSpec) -> EngineKind:
    """Return how vLLM is watched."""
    probe_path, probe_body = probe_of(spec)
    return EngineKind(
        name="vllm",
        progress_of=progress_of,
        progress_metric="vllm:iteration_tokens_total_count",
        probe_path=probe_path,
        probe_body=probe_body,
        sleeps=True,
    )
