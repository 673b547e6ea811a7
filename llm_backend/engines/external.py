"""A server that somebody else runs: only its address is ours."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from llm_backend.config.catalog import ExternalEngine, ModelSpec
from llm_backend.engines.base import EngineKind, LaunchPlan, WeightsStore, fingerprint, probe_of
from llm_backend.errors import EngineStartFailed


def plan(spec: ModelSpec, engine: ExternalEngine, store: WeightsStore) -> LaunchPlan:
    """Return address, name and key of the server.

    Raises:
        EngineStartFailed: the file with its key cannot be read.
    """
    address = urlsplit(engine.base_url)
    tls = address.scheme == "https"
    return LaunchPlan(
        model=spec.id,
        group=spec.exclusivity_group,
        served_name=engine.served_name or spec.id,
        host=address.hostname or "",
        port=address.port or (443 if tls else 80),
        key=_key(spec.id, engine),
        tls=tls,
        stop_s=spec.timeouts.stop_s,
        fingerprint=fingerprint(spec, store),
    )


def _key(model: str, engine: ExternalEngine) -> str | None:
    if engine.key_file is None:
        return None
    path = Path(engine.key_file).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineStartFailed(
            f"The key of {model!r} cannot be read from {path}: {error}.",
            hint="Write the key into that file, or correct `key_file` in the catalog.",
        ) from error


def kind(spec: ModelSpec, engine: ExternalEngine) -> EngineKind:
    """Return how such a server is watched."""
    probe_path, probe_body = probe_of(spec)
    return EngineKind(
        name=engine.kind,
        ready_path=engine.ready_path,
        probe_path=probe_path,
        probe_body=probe_body,
    )
