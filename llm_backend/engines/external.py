"""A server that somebody else runs: only its address is ours."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from llm_backend.config.catalog import ExternalEngine, ModelSpec
from llm_backend.engines.base import (
    EngineKind,
    LaunchPlan,
    Server,
    Upkeep,
    WeightsStore,
    fingerprint,
)
from llm_backend.errors import EngineStartFailed

_OTHERS: Final = 0o077
"""The bits of a file's mode that let anybody but its owner at it."""


def plan(spec: ModelSpec, engine: ExternalEngine, store: WeightsStore) -> LaunchPlan:
    """Return addresses, names and keys of the servers.

    Raises:
        EngineStartFailed: a file with a key cannot be read, or others can read it too.
    """
    first = _server(spec.id, engine.base_url, engine.key_file)
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=spec.served_name,
        host=first.host,
        port=first.port,
        key=first.key,
        tls=first.tls,
        replicas=tuple(_server(spec.id, each.base_url, each.key_file) for each in engine.replicas),
        upkeep=_upkeep(engine),
        stop_s=spec.timeouts.stop_s,
        fingerprint=fingerprint(spec, store),
    )


def _server(model: str, base_url: str, key_file: str | None) -> Server:
    address = urlsplit(base_url)
    tls = address.scheme == "https"
    return Server(
        host=address.hostname or "",
        port=address.port or (443 if tls else 80),
        tls=tls,
        key=None if key_file is None else _key(model, Path(key_file).expanduser()),
    )


def _upkeep(engine: ExternalEngine) -> Upkeep:
    asked = {} if engine.ready_path is None else {"paths": (engine.ready_path,)}
    return Upkeep(interval_s=engine.health_interval_s, deadline_s=engine.health_deadline_s, **asked)


def _key(model: str, path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would wait for its writer
            raise _unreadable(model, path, "it is not a file")
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(model, path, str(error)) from error
    if mode & _OTHERS:
        raise EngineStartFailed(
            f"The key of {model!r} lies open: {path} has the mode {stat.S_IMODE(mode):04o}.",
            hint=f"Let its owner alone read it: chmod 600 {path}",
        )
    if not key or not key.isprintable() or " " in key:
        raise EngineStartFailed(
            f"The key of {model!r} in {path} is not one word.",
            hint="Write the key, and nothing else, into that file.",
        )
    return key


def _unreadable(model: str, path: Path, why: str) -> EngineStartFailed:
    return EngineStartFailed(
        f"The key of {model!r} cannot be read from {path}: {why}.",
        hint="Write the key into that file, or correct `key_file` in the catalog.",
    )


def kind(engine: ExternalEngine) -> EngineKind:
    """Return how such a server is watched: by its runtime, which asks it for no token.

    A token would cost its owner money, or make a gateway that stands there switch.
    """
    ready_path = engine.ready_path or "/health"
    return EngineKind(name=engine.kind, ready_path=ready_path, probe_path=None, probe_body={})
