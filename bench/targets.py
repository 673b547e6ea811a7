"""The gateways under measurement, each started in front of the same mock engine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from bench import peers
from bench.processes import Missing, lives, running, tree
from bench.scenarios import Scenario, TargetKind, body
from bench.waiting import eventually, post
from llm_backend.runtimes.ports import free_port

MODEL = "bench"
KEY = "sk-bench-key-that-opens-nothing-else"  # of gateways that last as long as the benchmark
START_S = 120.0

DIRECT = "direct"
"""The mock engine without a gateway before it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where targets run.

    Attributes:
        folder: For configuration and logs; gone after the benchmark.
        engine: Port of the mock engine.
        core: The core of gateways.
        helper_core: The core of all else.
    """

    folder: Path
    engine: int
    core: int
    helper_core: int


@dataclass(slots=True)
class Target:
    """A running gateway, or the mock engine itself.

    Attributes:
        name: In tables and `--only`.
        version: For people.
        port: Where it listens.
        root: Its first process; None for the mock engine, whose cost is not measured.
        kind: Which scenarios of our own it takes part in.
        exact: Whether it passes answers on byte for byte.
        most_streams: More would take a whole core, and measure the queue.
        alone: Whether its descendants are not a part of it.
    """

    name: str
    version: str
    port: int
    root: psutil.Process | None = None
    kind: TargetKind = "any"
    exact: bool = True
    most_streams: int = 256
    alone: bool = False
    processes: Sequence[psutil.Process] = field(default_factory=list)

    def takes(self, scenario: Scenario) -> bool:
        """Return whether a scenario is for this target."""
        bearable = scenario.unit == "request" or scenario.connections <= self.most_streams
        return scenario.suits(self.kind) and bearable

    def settle(self) -> None:
        """Wait until it answers, then learn its processes.

        Raises:
            Missing: it does not answer.
        """
        request = body("short", MODEL, 1)
        headers = {"authorization": f"Bearer {KEY}"}

        def answers() -> bool:
            if self.root is not None and not lives(self.root):
                raise Missing(f"{self.name} that does not end by itself")
            return post(self.port, "/v1/chat/completions", request, headers)[0] == 200

        eventually(answers, START_S, f"{self.name} answers on port {self.port}")
        if self.root is not None:
            self.processes = [self.root] if self.alone else tree(self.root)


Start = Callable[[Place], contextlib.AbstractContextManager[Target]]


@contextlib.contextmanager
def nginx(place: Place) -> Iterator[Target]:
    """Run nginx as a plain reverse proxy."""
    # Debian has it in a directory that is not in every PATH.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Missing("nginx: apt-get install nginx-light")
    folder, port = place.folder / "nginx", free_port("127.0.0.1")
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.replace("FOLDER", str(folder))
        .replace("ENGINE", str(place.engine))
        .replace("PORT", str(port))
    )
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", said)
    argv = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)]
    with running(argv, place.core, folder / "log") as process:
        yield Target("nginx", found[1] if found else "", port, process)


NGINX = """\
daemon off;
pid FOLDER/pid;
worker_processes 1;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path FOLDER;
  proxy_temp_path FOLDER;
  fastcgi_temp_path FOLDER;
  uwsgi_temp_path FOLDER;
  scgi_temp_path FOLDER;
  keepalive_requests 100000000;
  upstream engine {
    server 127.0.0.1:ENGINE;
    keepalive 512;
    keepalive_requests 100000000;
  }
  server {
    listen 127.0.0.1:PORT backlog=4096;
    client_max_body_size 64m;
    location / {
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
    }
  }
}
"""


@contextlib.contextmanager
def vllm_router(place: Place) -> Iterator[Target]:
    """Run vLLM's router, which is written in Rust, with one worker URL."""
    programs = peers.environment("vllm-router", "vllm-router==0.1.17", "vllm-router")
    port = free_port("127.0.0.1")
    argv = [
        *(str(programs / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"http://127.0.0.1:{place.engine}", "--policy", "round_robin"),
        *("--prometheus-port", str(free_port("127.0.0.1")), "--log-level", "error"),
        *("--health-check-interval-secs", "86400", "--worker-startup-check-interval", "1"),
        *("--disable-retries", "--disable-circuit-breaker"),
    ]
    version = peers.version(programs, "vllm-router")
    with running(argv, place.core, place.folder / "vllm-router.log") as process:
        yield Target("vllm-router", version, port, process)


@contextlib.contextmanager
def litellm(place: Place) -> Iterator[Target]:
    """Run LiteLLM's proxy with one worker."""
    programs = peers.environment("litellm", "litellm[proxy]==1.106.2", "litellm[proxy]")
    port, config = free_port("127.0.0.1"), place.folder / "litellm.yaml"
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{place.engine}/v1",
        "api_key": "none",
    }
    entry = {"model_name": MODEL, "litellm_params": parameters}
    config.write_text(yaml.safe_dump({"model_list": [entry]}))
    argv = [
        *(str(programs / "litellm"), "--config", str(config), "--num_workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"),
    ]
    environment = {
        **os.environ,
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": KEY,  # it doesn't start without one
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is fetched from the network
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
    }
    version = peers.version(programs, "litellm")
    with running(argv, place.core, place.folder / "litellm.log", environment) as process:
        # It writes answers and events anew, and 32 streams take more than a core.
        yield Target("LiteLLM", version, port, process, exact=False, most_streams=4)


def clean_environment(**more: str) -> Mapping[str, str]:
    """Return the environment without what would change our gateway's settings."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "PYTHON"))}
    return own | more
