"""The catalog: `config/models.yaml` as typed, checked values.

One entry per model: what it can do, what it needs, and how its engine is launched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from llm_backend.config.base import (
    Count,
    Flag,
    Located,
    MiB,
    ModelId,
    Name,
    Number,
    Seconds,
    Strict,
    Text,
    Whole,
)
from llm_backend.config.device import DeviceSpec
from llm_backend.config.engine_options import (
    CommandEngine,
    EngineOptions,
    ExternalEngine,
    HealthQuestion,
    HelperProgram,
    LlamaCppEngine,
    Scalar,
    VllmEngine,
)
from llm_backend.config.references import dangling
from llm_backend.config.weights import HubWeights, PathWeights, Weights, WheelWeights

__all__ = [
    "Capability",
    "Catalog",
    "CommandEngine",
    "DeviceSpec",
    "EngineOptions",
    "ExternalEngine",
    "GenerationDefaults",
    "HealthQuestion",
    "HelperProgram",
    "HubWeights",
    "LlamaCppEngine",
    "ModelSpec",
    "PathWeights",
    "Reservation",
    "RuntimeKind",
    "Scalar",
    "Timeouts",
    "VllmEngine",
    "Weights",
    "WheelWeights",
]


class Capability(StrEnum):
    """What a model can be asked to do; a route of `endpoints.py` needs exactly one."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    VISION = "vision"
    VIDEO = "video"
    TOOLS = "tools"


class RuntimeKind(StrEnum):
    """The drivers that can run an engine."""

    DOCKER = "docker"
    PROCESS = "process"
    EXTERNAL = "external"


class Reservation(Strict):
    """MiB that a model takes on each of its devices, by residency."""

    awake: MiB = 0
    """While it serves: weights, cache and working memory."""
    asleep_1: Annotated[MiB, Field(alias="asleep-1")] = 0
    """While its weights wait in the RAM of the host."""
    asleep_2: Annotated[MiB, Field(alias="asleep-2")] = 0
    """While only its process is there."""
    residue: MiB = 0
    """What stays on the device after it stopped."""
    host: MiB | None = None
    """RAM of the host that it takes `asleep-1`; by default the size of its weights."""

    def asleep(self, level: int) -> int:
        """Return what it takes on each of its devices at a level of sleep."""
        return self.asleep_1 if level == 1 else self.asleep_2


class Timeouts(Strict):
    """Deadlines of one model, in seconds."""

    start_s: Seconds = 900
    """From launch until the engine answers."""
    stop_s: Seconds = 20
    """From SIGTERM until SIGKILL."""
    memory_s: Seconds = 30
    """How long a start waits for the device's memory to be free."""
    sleep_s: Seconds = 30
    """How long it may take to fall asleep; past it, it is stopped."""
    wake_s: Seconds = 60
    """How long it may take to wake up; past it, it is started anew."""


class GenerationDefaults(Strict):
    """Fields put into a request that does not have them."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token always; higher is more varied."""
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Share of the likeliest tokens to choose from."""
    max_tokens: Count | None = None
    """Longest answer, in tokens."""
    response_format: Mapping[str, Any] | None = None
    """As in the OpenAI API: `{type: json_object}` or a JSON schema."""

    @cached_property
    def given(self) -> Mapping[str, Any]:
        """The fields that have a value."""
        return self.model_dump(exclude_none=True)


class ModelSpec(Strict):
    """One model of the catalog."""

    id: SkipJsonSchema[str]
    """The key of the entry in `models`; never written inside the entry."""
    aliases: tuple[ModelId, ...] = ()
    """Other names under which clients may ask for it."""
    purpose: str = ""
    """What it is for, in one line for people who choose."""
    runtimes: Annotated[tuple[RuntimeKind, ...], Field(min_length=1)]
    """The drivers that can run it."""
    engine: EngineOptions
    """Which engine serves it, and the engine's launch options."""
    weights: Weights | None = None
    """Where its weights come from."""
    quantization: Text = "none"
    """For people: `awq`, `q4_k_m`, `none`."""
    capabilities: Annotated[tuple[Capability, ...], Field(min_length=1)]
    """What it can be asked to do."""
    max_model_len: Count | None = None
    """Longest prompt and answer together, in tokens, as `/v1/models` shows it."""
    devices: tuple[Name, ...] = ()
    """The devices that it takes, all of them at once; a server elsewhere takes none."""
    group: Name | None = None
    """Exclusivity group: one model of a group is awake at a time; by default its devices, and
    without devices it excludes nobody."""
    memory_mib: Reservation = Reservation()
    """MiB that it takes on each of its devices, by residency."""
    port: Annotated[Whole, Field(ge=0, le=65_535)] = 0
    """Port of the engine; 0 takes a free one at each start (process engines only)."""
    environment: Mapping[str, str] = {}
    """Variables added to the environment of a process engine."""
    concurrency: Annotated[Whole, Field(ge=1, le=100_000)] | None = None
    """Requests at once; by default `limits.concurrency_per_model`."""
    pinned: Flag = False
    """Whether it stays awake whatever requests for others want; operators still switch."""
    residency: Literal["stop", "asleep-1", "asleep-2", "auto"] = "stop"
    """What becomes of its engine when another model takes its place: `asleep-1` keeps the
    weights in the RAM of the host, `asleep-2` keeps the process only, `auto` takes what proved
    quickest."""
    idle_ttl_s: Seconds | None = None
    """Unused for so long, it is unloaded; by default it stays until another is wanted."""
    timeouts: Timeouts = Timeouts()
    """Deadlines, in seconds."""
    defaults: GenerationDefaults = GenerationDefaults()
    """Fields put into a request that does not have them."""

    @property
    def sleep_levels(self) -> tuple[int, ...]:
        """The levels of vLLM's sleep mode that it may take, the lightest first."""
        return {"asleep-1": (1,), "asleep-2": (2,), "auto": (1, 2)}.get(self.residency, ())

    @property
    def host_mib(self) -> int:
        """RAM of the host that its weights take while it is `asleep-1`, in MiB."""
        reserved = self.memory_mib
        if reserved.host is not None:
            return reserved.host
        return getattr(self.weights, "size_mib", None) or reserved.awake

    @property
    def exclusivity_group(self) -> str:
        """The group in which one model at a time is awake: by default its set of devices."""
        alone = f"{self.id}, elsewhere"  # no name of a group or a device has a comma
        return self.group or "+".join(sorted(self.devices)) or alone

    @property
    def served_name(self) -> str:
        """The name under which its engine knows it, as far as the catalog says another one."""
        return getattr(self.engine, "served_name", None) or self.id


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else () if value is None else value


OneOrMore = Annotated[
    tuple[ModelId, ...],
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "null"},
            ]
        }
    ),
]


class Catalog(Located):
    """All models and devices of `config/models.yaml`."""

    devices: Mapping[Name, DeviceSpec] = {}
    """The GPUs and the CPU that models run on, by name."""
    models: Mapping[ModelId, ModelSpec]
    """The models, by id."""
    default: OneOrMore = ()
    """Who answers a request that names no model, before any is awake: an id, or a list of
    which the first that this set-up can run is taken."""

    @model_validator(mode="before")
    @classmethod
    def _ids_from_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            return data
        models = {
            key: {**entry, "id": key} if isinstance(entry, dict) else entry
            for key, entry in data["models"].items()
        }
        return {**data, "models": models}

    @model_validator(mode="after")
    def _consistent(self) -> Catalog:
        faults = [text for _, text in dangling(self.model_dump())]
        if faults:
            raise PydanticCustomError("dangling", "{faults}", {"faults": "; ".join(faults)})
        return self

    def __iter__(self) -> Iterator[ModelSpec]:  # type: ignore[override]  # models, not fields
        return iter(self.models.values())

    def find(self, name: str) -> ModelSpec | None:
        """Return the model with this id or alias."""
        spec = self.models.get(name)
        if spec is not None:
            return spec
        return next((s for s in self.models.values() if name in s.aliases), None)

    def runnable(self, runtimes: frozenset[RuntimeKind]) -> Iterator[ModelSpec]:
        """Yield the models that at least one of these runtimes can run."""
        return (spec for spec in self if runtimes.intersection(spec.runtimes))

    def default_for(self, runtimes: frozenset[RuntimeKind]) -> ModelSpec | None:
        """Return the first default that these runtimes can run; else the first model."""
        able = {spec.id: spec for spec in self.runnable(runtimes)}
        chosen = (able[name] for name in self.default if name in able)
        return next(chosen, None) or next(iter(able.values()), None)
