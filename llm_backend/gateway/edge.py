"""Builds the edge: the stages, the pipeline over them, and the application."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_backend.config.settings import Settings
from llm_backend.gateway.admission import Admission
from llm_backend.gateway.app import Gateway, build_api
from llm_backend.gateway.assets import Assets
from llm_backend.gateway.auth import Authenticator, admin_key, authenticator_of
from llm_backend.gateway.cache import ResponseCache
from llm_backend.gateway.calls import Bounds, Salt
from llm_backend.gateway.fetch import Fetcher
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.flight import Flights
from llm_backend.gateway.gauges import show
from llm_backend.gateway.guard import Guard
from llm_backend.gateway.images import Images
from llm_backend.gateway.labels import vocabulary_of
from llm_backend.gateway.narrator import Narrator
from llm_backend.gateway.pipeline import Pipeline, Stages
from llm_backend.gateway.quota import Quotas
from llm_backend.gateway.record import Note, Recorder
from llm_backend.gateway.redis_store import RedisStore
from llm_backend.gateway.relay import Relay
from llm_backend.gateway.report import Reporter
from llm_backend.gateway.services import Services
from llm_backend.gateway.timeline import Timeline
from llm_backend.gateway.upstream import Upstream
from llm_backend.gpu.base import GpuProbe
from llm_backend.switching.switcher import Switcher
from llm_backend.telemetry.logs import FrequentLog
from llm_backend.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from llm_backend.telemetry.spans import Tracer


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge, as far as the life of the gateway needs it."""

    app: Gateway
    services: Services
    switcher: Switcher
    narrator: Narrator


@contextlib.asynccontextmanager
async def build_edge(
    settings: Settings,
    fleet: Fleet,
    switcher: Switcher,
    devices: GpuProbe,
    note: Note | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[Edge]:
    """Build the edge in front of a switcher; on leaving, let go of its connections.

    Args:
        settings: Everything that can be set.
        fleet: The models.
        switcher: Who grants leases.
        devices: What reads the devices.
        note: Is told of every request that asked for an engine, once it is over.
        tracer: Makes spans of requests, where somebody wants them.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstream = Upstream()
        stack.push_async_callback(upstream.close)
        cache = _cache(settings)
        stack.push_async_callback(cache.close)
        fetcher = Fetcher.within(settings.images)
        stack.push_async_callback(fetcher.close)
        authenticator = authenticator_of(settings)
        words = vocabulary_of(
            fleet,
            switcher.entries.values(),
            authenticator.names,
            settings.runs_as,
            may_keep=settings.cache.mode != "off",
        )
        metrics = Metrics(words)
        show(metrics, words, switcher, cache)
        requests = FrequentLog(settings.logs.level, settings.logs.format)
        stack.callback(requests.flush)
        recorder = Recorder(metrics, requests, note)
        admission = _admission(settings, fleet, switcher)
        stages = _stages(settings, authenticator, admission, recorder, cache, upstream, fetcher)
        pipeline = Pipeline(replace(stages, tracer=tracer), settings.limits.body_mib * 1024 * 1024)
        reporter = Reporter(settings, settings.runs_as, fleet, switcher, devices, cache)
        services = Services(
            stages.authenticator,
            cache,
            fleet,
            metrics,
            reporter,
            switcher,
            Timeline({s.id: s.devices for s in fleet.catalog}, time.monotonic, time.time),
            Assets.of_console(),
        )
        app = Gateway(_guard(settings), pipeline, build_api(services), metrics.refuse)
        yield Edge(app, services, switcher, Narrator(metrics))


def _cache(settings: Settings) -> ResponseCache:
    url, ttl_s = settings.cache.redis_url, settings.cache.ttl_s
    redis = RedisStore(url, ttl_s, time.monotonic) if url else None
    return ResponseCache(settings.cache, time.monotonic, redis)


def _admission(settings: Settings, fleet: Fleet, switcher: Switcher) -> Admission:
    batch_s = settings.switching.batch_max_wait_s
    return Admission(fleet, switcher, settings.limits.queue_timeout_s, batch_s)


def _stages(
    settings: Settings,
    authenticator: Authenticator,
    admission: Admission,
    recorder: Recorder,
    cache: ResponseCache,
    upstream: Upstream,
    fetcher: Fetcher,
) -> Stages:
    limits = settings.limits
    return Stages(
        authenticator=authenticator,
        quotas=Quotas(settings.keys, time.monotonic),
        bounds=Bounds(limits),
        images=Images(settings.images, fetcher),
        salt=_salt(settings),
        cache=cache,
        flights=Flights(),
        admission=admission,
        switcher=admission.switcher,
        relay=Relay(upstream, limits.request_timeout_s, limits.idle_timeout_s),
        recorder=recorder,
    )


def _salt(settings: Settings) -> Salt | None:
    """Return what keeps keys apart; without configured keys there is nobody to keep apart."""
    if not settings.keys:
        return None
    secret = hashlib.sha256(b"cache salt" + admin_key(settings.state_dir).encode())
    return Salt(secret.digest())


def _guard(settings: Settings) -> Guard:
    server = settings.server
    hosts = [*server.allowed_hosts]
    if settings.setup == "compose":
        # Prometheus asks for the service of compose, people for the address of the port.
        hosts += ["gateway", *([server.published_host] if server.published_host else [])]
    return Guard(
        hosts=hosts,
        origins=server.cors_origins,
        max_headers=settings.limits.headers,
        max_header_bytes=settings.limits.headers_kib * 1024,
    )
