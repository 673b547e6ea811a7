"""The settings: flags, environment, `.env` and `config/gateway.yaml`, in this order of weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from llm_backend.config.base import (
    Count,
    Flag,
    Located,
    MiB,
    ModelId,
    Name,
    Seconds,
    Sha256,
    Strict,
    Text,
    Whole,
)

Scope = Literal["infer", "admin"]
Setup = Literal["local", "compose", "external"]

HostName = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:]+\]?)$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "a host name or address, without scheme, port or wildcard"
        }
    ),
]
WebOrigin = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^/\s*]+$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "an origin such as http://localhost:3000 (no path, no final /)"
        }
    ),
]
RedisUrl = Annotated[
    str,
    StringConstraints(pattern=r"^(rediss?|unix)://\S+$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "an address such as redis://localhost:6379/0",
            "writeOnly": True,
        }
    ),
]


DockerHost = Annotated[
    str,
    StringConstraints(pattern=r"^(unix:///|tcp://[^/\s])\S*$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "an address such as unix:///var/run/docker.sock or "
            "tcp://docker-filter:2375"
        }
    ),
]


OtlpEndpoint = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^/\s@]+(/\S*)?$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "an address such as http://localhost:4318, without a password"
        }
    ),
]


class ServerSettings(Strict):
    """Where the gateway listens and whom it answers."""

    host: Text = "127.0.0.1"
    """Address to listen on. Beyond loopback a key with the scope `infer` is demanded."""
    port: Annotated[Whole, Field(ge=0, le=65_535)] = 7000
    """Port to listen on; 0 takes a free one."""
    published_host: Text | None = None
    """The address under which the port is reachable from outside, where a container hides it."""
    published_port: Annotated[Whole, Field(ge=1, le=65_535)] | None = None
    """The port under which it is reachable there; by default the same."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Hosts to answer for (the Host header) besides the loopback names."""
    cors_origins: tuple[WebOrigin, ...] = ()
    """Web pages of these origins may call the API from a browser."""


class LimitSettings(Strict):
    """Bounds on what one request, one model and the queue may take."""

    request_timeout_s: Seconds = 300
    """Longest time from the first byte to the engine until the end of its answer."""
    queue_timeout_s: Seconds = 900
    """Longest wait for a turn, or for the model to be switched to."""
    idle_timeout_s: Seconds = 120
    """Longest silence of an engine that is generating."""
    concurrency_per_model: Count = 10
    """Requests that one engine works on at once; the others wait."""
    queue: Count = 512
    """Requests that may wait; of several keys, an eighth is for those with few of them."""
    body_mib: Annotated[Whole, Field(ge=1, le=1024)] = 32
    """Largest body of a request."""
    prompt_chars: Count = 1_000_000
    """Longest text of a request, all messages together."""
    messages: Count = 2_000
    """Most messages in a request."""
    choices: Count = 16
    """Most answers to one request (`n`, `best_of`)."""
    stop_words: Count = 64
    """Most stop sequences, or bad words, in a request."""
    headers: Count = 100
    """Most headers of a request."""
    headers_kib: Count = 32
    """Largest headers of a request, all together."""
    head_s: Seconds = 10
    """Longest time a client may take to send request line and headers."""
    slow_client_s: Seconds = 30
    """Longest time a client may take to send the body."""


class ImageSettings(Strict):
    """Pictures and other media in requests."""

    allowed_hosts: tuple[Text, ...] = ()
    """Hosts that pictures may be fetched from, with or without `:port`; engines never fetch."""
    count: Count = 32
    """Most pictures in a request."""
    mib: Count = 16
    """Largest picture."""
    megapixels: Count = 64
    """Largest picture, in millions of pixels."""
    min_side: Count = 2
    """Fewest pixels of a side; some models fail on smaller pictures."""
    fetch_s: Seconds = 10
    """Longest time for fetching one."""


class SwitchingSettings(Strict):
    """When and how the awake model changes."""

    mode: Literal["auto", "manual"] = "auto"
    """`auto`: asking for a model switches to it. `manual`: only `llm-backend switch` does."""
    policy: Literal["fair", "fifo"] = "fair"
    """`fair`: models, keys and classes take turns; `fifo`: first come, first served."""
    max_wait_s: Seconds = 60
    """How long models may be kept awake in all while a request waits for another one (`fair`)."""
    batch_max_wait_s: Seconds = 3_600
    """After this long a batch request counts as an interactive one (`fair`)."""
    drain_timeout_s: Seconds | None = None
    """Longest wait for running requests before a switch; by default the request time-out."""
    unwanted_load: Literal["finish", "cancel"] = "finish"
    """What becomes of a load that nobody waits for any more."""
    restore_previous: Flag = False
    """Whether a switch that failed brings back the model that was awake before."""
    preload: ModelId | None = None
    """The model to load at start; by default none is loaded until one is asked for."""
    stall_s: Seconds = 30
    """Without progress for this long, a busy engine gets a one-token probe."""
    probe_s: Seconds = 15
    """How long that probe may take before the engine counts as hung."""
    sleep_ram_mib: MiB | None = None
    """RAM for the weights of models that are `asleep-1`; by default half of the machine's."""
    record: Path | None = None
    """A file to note arrivals in, for `llm-backend replay`; relative paths start at `state_dir`."""


class CacheSettings(Strict):
    """The response cache."""

    mode: Literal["deterministic", "all", "off"] = "deterministic"
    """`deterministic` keeps answers at temperature 0 or with a seed; `all` keeps every one."""
    redis_url: RedisUrl | None = None
    """Redis to keep answers in; without it they are kept in memory."""
    memory_mib: Count = 64
    """Size of the cache in memory."""
    ttl_s: Seconds = 3_600
    """How long an answer is kept."""


class DockerSettings(Strict):
    """How the compose set-up starts and stops its containers."""

    host: DockerHost | None = None
    """Address of the Docker engine; by default `DOCKER_HOST`, else the local socket."""
    image: Text | None = None
    """The image that the engines' containers are made of; cached answers hold for it alone."""


class KeySettings(Strict):
    """One key that clients may use; the file holds its SHA-256, never the key."""

    name: Name
    """For logs and limits."""
    sha256: Annotated[Sha256, Field(json_schema_extra={"writeOnly": True})]
    """SHA-256 of the key: `printf %s "$KEY" | sha256sum`."""
    scopes: tuple[Scope, ...] = ("infer",)
    """`infer` may ask models, `admin` may load, unload and read logs."""
    requests_per_minute: Count | None = None
    """Most requests within a minute; by default there is no limit."""
    concurrency: Count | None = None
    """Most requests at once; by default there is no limit."""


class LogSettings(Strict):
    """How the gateway logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""


class TelemetrySettings(Strict):
    """What the gateway tells others of itself, beside its log and `/metrics`."""

    otlp_endpoint: OtlpEndpoint | None = None
    """Who takes traces, as OTLP over HTTP; by default nobody does. Needs `llm-backend[traces]`."""


class Settings(Located):
    """Everything that is not about one model."""

    setup: Literal["auto", "local", "compose", "external"] = "auto"
    """`local` runs engines as processes, `compose` as containers, `external` runs none and uses
    servers that others run, as all can beside their own; `auto` takes local or compose."""
    state_dir: Path = Path("~/.local/state/llm-backend")
    """Where logs, the admin key and the records of running engines are."""
    lock_dir: Path | None = None
    """Where the locks are that keep two gateways apart; by default `locks` in `state_dir`."""
    models_dir: Path = Path("~/.cache/llm-backend/models")
    """Where downloaded weights are."""
    catalog: Path = Path("config/models.yaml")
    """The file that lists the models."""
    server: ServerSettings = ServerSettings()
    """Where the gateway listens and whom it answers."""
    limits: LimitSettings = LimitSettings()
    """Bounds on what one request, one model and the queue may take."""
    images: ImageSettings = ImageSettings()
    """Pictures and other media in requests."""
    switching: SwitchingSettings = SwitchingSettings()
    """When and how the awake model changes."""
    cache: CacheSettings = CacheSettings()
    """The response cache."""
    docker: DockerSettings = DockerSettings()
    """How the compose set-up starts and stops its containers."""
    keys: tuple[KeySettings, ...] = ()
    """Keys that clients may use."""
    logs: LogSettings = LogSettings()
    """How the gateway logs."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """What the gateway tells others of itself, beside its log and `/metrics`."""

    @property
    def runs_as(self) -> Setup:
        """The set-up of a gateway with these settings: a choice that nobody made is local."""
        return "local" if self.setup == "auto" else self.setup
