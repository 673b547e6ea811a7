"""The launch options of each kind of engine, as an entry of the catalog gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from llm_backend.config.base import Flag, Name, Number, Seconds, Strict, Text, Whole

Scalar = str | Whole | Number | Flag

Port = Annotated[Whole, Field(ge=0, le=65_535)]


def _with_a_real_port(address: str) -> str:
    """Refuse what the pattern lets pass: ports that there are not, IPv6 addresses that are none."""
    if urlsplit(address).port == 0:
        raise ValueError(address)
    return address


Address = Annotated[
    str,
    StringConstraints(pattern=r"^https?://([^/\s@:?#%\\\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$"),
    AfterValidator(_with_a_real_port),
    Field(
        json_schema_extra={
            "patternErrorMessage": "an address such as http://host:8000, without a path"
        }
    ),
]
"""Where somebody else's server is; a key stands in a file, never in the address."""

Route = Annotated[
    str,
    StringConstraints(pattern=r"^/[!-~]*$"),
    Field(json_schema_extra={"patternErrorMessage": "a path such as /health"}),
]
"""What is asked of a server by GET."""


class LlamaCppEngine(Strict):
    """llama.cpp's server out of the wheel `xllamacpp`."""

    kind: Literal["llama.cpp"]
    """Runs GGUF files, on the CPU too; runtime `process`."""
    context: Annotated[Whole, Field(ge=128, le=1_048_576)] = 4096
    """Tokens that each conversation may take, prompt and answer together."""
    parallel: Annotated[Whole, Field(ge=1, le=64)] = 1
    """Conversations at once; each takes its own memory for `context` tokens."""
    threads: Annotated[Whole, Field(ge=0, le=512)] = 0
    """CPU threads; 0 takes every core."""
    gpu_layers: Annotated[Whole, Field(ge=0, le=999)] = 0
    """Layers to put on the GPU."""
    embeddings: Flag = False
    """Whether it serves embeddings instead of text."""


class VllmEngine(Strict):
    """vLLM's OpenAI server: a container made by compose, or a process of this machine."""

    kind: Literal["vllm"]
    """Runs safetensors; runtime `docker` or `process`."""
    options: Mapping[str, Scalar | None] = {}
    """vLLM's own options, without their dashes; they win over `config_file`."""
    config_file: Text | None = None
    """A file in vLLM's `--config` format, such as `config/engines/qwen-vl.yaml`."""
    python: Text | None = None
    """The interpreter that has vLLM (runtime `process`)."""
    container: Name | None = None
    """Name of the container (runtime `docker`)."""


class HelperProgram(Strict):
    """A process that an engine needs beside itself, such as the tokenizer of an NPU service."""

    name: Name
    """What it is called in logs, in messages and in the `helpers` of `/health`."""
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    """Program and arguments; the same blanks as those of the engine, `{port}` is its own port."""
    port: Port = 0
    """Where it listens; 0 takes a free port at each start."""
    ready_path: Route | None = None
    """GET on it answers 200 when it is ready; by default a port that takes connections will do."""
    start_s: Seconds = 60
    """Longest time from its launch until it is ready; the next process starts then."""
    environment: Mapping[str, str] = {}
    """Variables for it alone; it has those of the model too."""
    working_directory: Text | None = None
    """Where it starts; by default where the engine does."""


class HealthQuestion(Strict):
    """Where something about an engine's health is read."""

    helper: Name | None = None
    """The helper to ask; by default the engine itself."""
    path: Route
    """GET on it answers 200 when all is well."""
    field: Name | None = None
    """A field of the JSON object that comes back, whose value is shown."""


class CommandEngine(Strict):
    """Any program that serves the OpenAI API."""

    kind: Literal["command"]
    """Runs `argv`; runtime `process`."""
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    """Program and arguments; may hold `{port}`, `{weights}`, `{served_name}`, `{revision}` and
    `{NAME.port}`, the port of the helper NAME."""
    helpers: tuple[HelperProgram, ...] = ()
    """Processes that it needs: started before it, in this order, each once the one before is
    ready; ended after it, in the reverse order. If one ends, all end, and the engine has failed."""
    health: Mapping[Name, HealthQuestion] = {}
    """What `/health` of the gateway shows in `helpers` beside the helpers and `model`."""
    served_name: Text | None = None
    """The name under which it knows the model; by default the id."""
    revision: Text | None = None
    """The release of program or weights that the command pins; with another one, answers that
    are kept do not count, and a running engine is not taken over."""
    ready_path: Route = "/health"
    """GET on it answers 200 when the engine can serve."""
    working_directory: Text | None = None
    """Where the program starts."""
    progress_metric: Text | None = None
    """A counter on its `/metrics` that moves while it works."""
    sleep_mode: Flag = False
    """Whether it has the routes of vLLM's sleep mode: `/sleep`, `/wake_up`, `/is_sleeping`."""


class Replica(Strict):
    """One more server that answers as the first one does."""

    base_url: Address
    """Its address, without `/v1`."""
    key_file: Text | None = None
    """A file that holds the bearer key which it wants, readable by its owner alone."""


class ExternalEngine(Strict):
    """A server that somebody else runs, or several of them with the same model."""

    kind: Literal["external"]
    """Runs elsewhere; runtime `external`."""
    base_url: Address
    """Its address, without `/v1`."""
    replicas: tuple[Replica, ...] = ()
    """More servers with the same model: each request goes to the one with the fewest."""
    served_name: Text | None = None
    """The name under which it knows the model; by default the id."""
    key_file: Text | None = None
    """A file that holds the bearer key which it wants, readable by its owner alone."""
    ready_path: Route | None = None
    """GET on it answers 200 when it can serve; by default `/health`, and `/v1/models` where there
    is no such route."""
    health_interval_s: Seconds = 5
    """How often that is asked."""
    health_deadline_s: Seconds = 2
    """How long the answer may take."""
    revision: Text | None = None
    """What is served there, if you know: with another one, answers that are kept do not count."""


EngineOptions = Annotated[
    LlamaCppEngine | VllmEngine | CommandEngine | ExternalEngine, Field(discriminator="kind")
]
