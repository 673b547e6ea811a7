"""Our own gateway under measurement, set up as a user would have it: all its stages are on."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.processes import Missing, lives, running, thaw
from bench.targets import KEY, MODEL, Place, Target, clean_environment
from bench.waiting import eventually, is_listening
from llm_backend import __version__
from llm_backend.config.root import ROOT_VARIABLE
from llm_backend.runtimes.ports import free_port


@contextlib.contextmanager
def ours(place: Place) -> Iterator[Target]:
    """Run our gateway, with its cache in memory."""
    with _serving(place, "ours", {}) as (port, process):
        yield Target("ours", __version__, port, process, kind="ours", alone=True)


@contextlib.contextmanager
def ours_with_redis(place: Place) -> Iterator[Target]:
    """Run our gateway with a Redis of its own."""
    with _redis(place) as url:
        cache = {"redis_url": url, "memory_mib": 1}
        with _serving(place, "ours-redis", {"cache": cache}) as (port, process):
            yield Target("ours-redis", __version__, port, process, kind="redis", alone=True)


@contextlib.contextmanager
def _redis(place: Place) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server: apt-get install redis-server")
    port = free_port("127.0.0.1")
    argv = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with running(argv, place.helper_core, place.folder / "redis.log"):
        eventually(lambda: is_listening(port), 10, f"redis-server listens on {port}")
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def _serving(
    place: Place, name: str, settings: Mapping[str, Any]
) -> Iterator[tuple[int, psutil.Process]]:
    root, port = place.folder / name, free_port("127.0.0.1")
    configure(root, port, place.engine, settings)
    argv = [sys.executable, "-m", "llm_backend", "serve", "--setup", "local"]
    environment = clean_environment(**{ROOT_VARIABLE: str(root)})
    with running(argv, place.core, root / "gateway.log", environment) as process:
        try:
            eventually(lambda: _ready(process, port, root), 60, "our gateway listens")
            yield port, process
        finally:
            thaw([process])


def configure(root: Path, port: int, engine: int, settings: Mapping[str, Any]) -> None:
    """Write the two configuration files; the engine is the mock one, which runs already."""
    (root / "config").mkdir(parents=True)
    model = {
        "runtimes": ["external"],
        "engine": {"kind": "external", "base_url": f"http://127.0.0.1:{engine}"},
        "capabilities": ["chat", "completions", "vision"],
        "concurrency": 1000,
    }
    catalog = {"devices": {}, "models": {MODEL: model}}
    key = {"name": "bench", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    all_settings = {
        "setup": "local",
        "state_dir": str(root / "state"),
        "server": {"port": port},
        "keys": [key],
        **settings,
    }
    (root / "config" / "models.yaml").write_text(yaml.safe_dump(catalog))
    (root / "config" / "gateway.yaml").write_text(yaml.safe_dump(all_settings))


def _ready(process: psutil.Process, port: int, root: Path) -> bool:
    if not lives(process):
        said = (root / "gateway.log").read_text(errors="replace").strip().splitlines()
        raise Missing("our gateway, which ended: " + " ".join(said[-3:]))
    return is_listening(port)
