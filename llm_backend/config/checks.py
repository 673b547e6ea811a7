"""What only shows when settings and catalog are seen together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final

from llm_backend.config.base import Origin
from llm_backend.config.catalog import (
    Catalog,
    CommandEngine,
    HubWeights,
    LlamaCppEngine,
    ModelSpec,
    RuntimeKind,
    VllmEngine,
)
from llm_backend.config.problems import Problem
from llm_backend.config.references import no_such
from llm_backend.config.settings import Settings

_RUNTIMES: Final[Mapping[str, frozenset[RuntimeKind]]] = {
    "llama.cpp": frozenset({RuntimeKind.PROCESS}),
    "command": frozenset({RuntimeKind.PROCESS}),
    "external": frozenset({RuntimeKind.EXTERNAL}),
    "vllm": frozenset({RuntimeKind.DOCKER, RuntimeKind.PROCESS}),
}
"""The runtimes that can run each kind of engine."""

_PORT: Final = re.compile(r"\{([A-Za-z0-9][A-Za-z0-9._-]*)\.port\}")
"""A blank for the port of a helper."""


def check(settings: Settings, catalog: Catalog) -> list[Problem]:
    """Return what is wrong with settings and catalog together; `refuse` raises the errors."""
    problems = [*_server(settings), *_switching(settings, catalog)]
    for spec in catalog:
        problems += [*_runtimes(catalog, spec), *_weights(catalog, spec), *_memory(catalog, spec)]
        problems += [*_residency(catalog, spec), *_devices(catalog, spec), *_helpers(catalog, spec)]
    return [*problems, *_containers(catalog)]


def _server(settings: Settings) -> Iterator[Problem]:
    server = settings.server
    name = "host" if server.published_host is None else "published_host"
    address = server.published_host or server.host
    if is_loopback(address) or any("infer" in key.scopes for key in settings.keys):
        return
    yield Problem(
        settings.origin("server", name),
        f"{address!r} lets other machines in, and no key has the scope 'infer'; "
        "add one under 'keys' in config/gateway.yaml, or take 127.0.0.1",
    )


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _switching(settings: Settings, catalog: Catalog) -> Iterator[Problem]:
    preload, drain_s = settings.switching.preload, settings.switching.drain_timeout_s
    if preload is not None and catalog.find(preload) is None:
        names = {name: spec for spec in catalog for name in (spec.id, *spec.aliases)}
        text = no_such("model", preload, names)
        yield Problem(settings.origin("switching", "preload"), text)
    request_s = settings.limits.request_timeout_s
    if drain_s is not None and drain_s > request_s:
        text = (
            f"{drain_s:g} s is more than limits.request_timeout_s allows any request "
            f"({request_s:g} s); the rest is never waited"
        )
        yield Problem(settings.origin("switching", "drain_timeout_s"), text, "warning")


def _runtimes(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    able = _RUNTIMES[spec.engine.kind]
    for index, runtime in enumerate(spec.runtimes):
        if runtime not in able:
            others = " or ".join(f"'{kind}'" for kind in sorted(able))
            text = f"'{runtime}' cannot run the engine {spec.engine.kind!r}; only {others} can"
            yield Problem(catalog.origin("models", spec.id, "runtimes", index), text)
    docker = RuntimeKind.DOCKER in spec.runtimes
    if docker and isinstance(spec.engine, VllmEngine) and spec.engine.container is None:
        text = f"'container' is missing: runtime 'docker' needs a name such as 'llm-{spec.id}'"
        yield Problem(catalog.origin("models", spec.id, "engine"), text)


def _weights(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    if not isinstance(spec.engine, LlamaCppEngine):
        return
    if spec.weights is None:
        text = "'weights' is missing: llama.cpp runs a GGUF file"
        yield Problem(catalog.origin("models", spec.id), text)
    elif isinstance(spec.weights, HubWeights) and spec.weights.file is None:
        text = "'file' is missing: llama.cpp runs one GGUF file, not a repository"
        yield Problem(catalog.origin("models", spec.id, "weights"), text)


def _memory(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    for device in spec.devices:
        total = catalog.devices[device].memory_mib
        if total is not None and spec.memory_mib.awake > total:
            text = f"{spec.memory_mib.awake} MiB are more than the {total} MiB of {device!r}"
            origin = catalog.origin("models", spec.id, "memory_mib", "awake")
            yield Problem(origin, text, "warning")


def _devices(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    elsewhere = RuntimeKind.EXTERNAL in spec.runtimes
    if elsewhere and spec.devices:
        text = "a server elsewhere takes no device of this machine; leave it out"
        yield Problem(catalog.origin("models", spec.id, "devices"), text)
    if not elsewhere and not spec.devices:
        names = ", ".join(catalog.devices) or "none yet"
        text = f"'devices' is missing: name what the model runs on; there is {names}"
        yield Problem(catalog.origin("models", spec.id), text)


def _helpers(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    """Yield names and ports of helpers that are there twice, or that nothing has."""
    engine = spec.engine
    if not isinstance(engine, CommandEngine):
        return
    names = {"model": "the engine itself"}
    for index, helper in enumerate(engine.helpers):
        if helper.name in names:
            text = f"{helper.name!r} is the name of {names[helper.name]} too"
            yield Problem(_origin(catalog, spec, "helpers", index, "name"), text)
        names[helper.name] = "another helper"
    known = {helper.name: helper for helper in engine.helpers}
    for name, asked in engine.health.items():
        if name in names:
            text = f"{name!r} is the name of {names[name]} too"
            yield Problem(_origin(catalog, spec, "health", name), text)
        if asked.helper is not None and asked.helper not in known:
            text = no_such("helper", asked.helper, known)
            yield Problem(_origin(catalog, spec, "health", name, "helper"), text)
    yield from _ports(catalog, spec, engine)
    yield from _ports_twice(catalog, spec, engine)


def _ports_twice(catalog: Catalog, spec: ModelSpec, engine: CommandEngine) -> Iterator[Problem]:
    owners = {spec.port: "the engine itself"} if spec.port else {}
    for index, helper in enumerate(engine.helpers):
        if helper.port in owners:
            text = f"{helper.port} is the port of {owners[helper.port]} too"
            yield Problem(_origin(catalog, spec, "helpers", index, "port"), text)
        elif helper.port:
            owners[helper.port] = f"the helper {helper.name!r}"


def _ports(catalog: Catalog, spec: ModelSpec, engine: CommandEngine) -> Iterator[Problem]:
    known = {helper.name: helper for helper in engine.helpers}
    commands = [engine.argv, *(helper.argv for helper in engine.helpers)]
    for name in dict.fromkeys(_PORT.findall(" ".join(word for argv in commands for word in argv))):
        if name not in known:
            text = f"'{{{name}.port}}': {no_such('helper', name, known)}"
            yield Problem(_origin(catalog, spec, "argv"), text)


def _origin(catalog: Catalog, spec: ModelSpec, *way: str | int) -> Origin:
    return catalog.origin("models", spec.id, "engine", *way)


def _residency(catalog: Catalog, spec: ModelSpec) -> Iterator[Problem]:
    engine, origin = spec.engine, catalog.origin("models", spec.id, "residency")
    if spec.residency == "stop":
        return
    if engine.kind != "vllm" and not getattr(engine, "sleep_mode", False):
        text = (
            f"{spec.residency!r} is for engines with vLLM's sleep mode, and this one is "
            f"{engine.kind}; take 'stop'"
        )
        yield Problem(origin, text)
    for device in spec.devices:
        room = catalog.devices[device].room_mib(None)
        beside = _largest_beside(catalog, spec, device)
        asleep = min(spec.memory_mib.asleep(level) for level in spec.sleep_levels)
        if room is not None and beside + asleep > room:
            text = (
                f"asleep it keeps {asleep} MiB of {device!r}, and another model that takes its "
                f"place reserves {beside} of {room} MiB: it will be stopped instead; lower "
                f"gpu-memory-utilization and `memory_mib.awake`"
            )
            yield Problem(origin, text, "warning")


def _largest_beside(catalog: Catalog, spec: ModelSpec, device: str) -> int:
    rivals = (m for m in catalog if m.exclusivity_group == spec.exclusivity_group and m != spec)
    return max((m.memory_mib.awake for m in rivals if device in m.devices), default=0)


def _containers(catalog: Catalog) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for spec in catalog:
        container = spec.engine.container if isinstance(spec.engine, VllmEngine) else None
        owner = owners.setdefault(container, spec.id) if container else spec.id
        if owner != spec.id:
            text = f"{container!r} is the container of {owner!r} too"
            yield Problem(catalog.origin("models", spec.id, "engine", "container"), text)
