"""A real gateway in a directory of its own, with real engine processes, for integration tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from llm_backend.runtimes.marks import STATE_VARIABLE
from llm_backend.testing.fake_engine import command

REPOSITORY = Path(__file__).parent.parent
PATIENCE_S = 60.0
"""How long a slow machine may take for what is not measured."""

ALL = ["chat", "completions", "responses", "messages", "embeddings", "tokenize", "vision"]


def eventually(
    check: Callable[[], Any], within_s: float = PATIENCE_S, every_s: float = 0.02
) -> Any:
    """Return the first true value of `check`; for states of other processes, which tell nobody."""
    deadline = time.monotonic() + within_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"not so within {within_s:g} s: {check}"
        time.sleep(every_s)
    return value


def fake_model(root: Path, name: str, *flags: str, **fields: Any) -> dict[str, Any]:
    """A catalog entry whose engine is the fake one.

    It starts under flock(1) on one witness file for all: an engine that starts while another
    lives exits with the status 99.
    """
    journal = str(root / f"{name}.jsonl")
    engine = command("--served-model-name", name, "--journal", journal, *flags)
    witness = ("flock", "--no-fork", "--nonblock", "--conflict-exit-code", "99")
    return {
        "runtimes": ["process"],
        "engine": {
            "kind": "command",
            "argv": [*witness, str(root / "witness"), *engine],
            "progress_metric": "vllm:iteration_tokens_total_count",
        },
        "capabilities": ALL,
        "devices": ["cpu"],
        "timeouts": {"start_s": 30, "stop_s": 5},
        **fields,
    }


class GatewayHome:
    """A directory with configuration and state, and the gateway that runs on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "gateway.log"
        self.models: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}

    def configure(self, models: Mapping[str, Any], **settings: Any) -> None:
        """Write the two configuration files."""
        self.models = dict(models)
        self.settings = {
            "setup": "local",
            "state_dir": str(self.root / "state"),
            "server": {"port": 0},
            **settings,
        }
        config = self.root / "config"
        config.mkdir(exist_ok=True)
        catalog = {"devices": {"cpu": {"kind": "cpu"}}, "models": self.models}
        (config / "models.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False))
        (config / "gateway.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))

    def start(self, *arguments: str, ready: bool = True) -> None:
        """Start the gateway; wait until it takes requests."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.gateway_program", str(self.root), *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            eventually(self._is_ready)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, ValueError, httpx2.HTTPError, LookupError):
            if (
                json.loads((self.root / "state/gateway.json").read_bytes())["pid"]
                == self.process.pid
            ):
                return httpx2.get(self.url + "/health/ready").status_code == 200
        return False

    @property
    def url(self) -> str:
        return str(json.loads((self.root / "state/gateway.json").read_bytes())["url"])

    @property
    def admin(self) -> dict[str, str]:
        key = (self.root / "state/admin.key").read_text().strip()
        return {"authorization": f"Bearer {key}"}

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=PATIENCE_S, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=PATIENCE_S, **options)

    def chat(self, model: str | None = None, **fields: Any) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 4, **fields}
        return self.post(
            "/v1/chat/completions", body if model is None else {"model": model, **body}
        )

    def load(self, model: str, **fields: Any) -> httpx2.Response:
        return self.post("/api/v1/inference/load", {"model": model, **fields}, headers=self.admin)

    def state(self, model: str) -> str:
        return str(self.get("/health").json()["models"][model]["state"])

    def journal(self, model: str) -> list[dict[str, Any]]:
        """What the fake engine of a model wrote down."""
        path = self.root / f"{model}.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def events(self, model: str) -> list[str]:
        return [line["event"] for line in self.journal(model)]

    def starts(self, model: str) -> int:
        return self.events(model).count("start")

    def engine_processes(self) -> list[psutil.Process]:
        """All processes that belong to engines of this home."""
        mark = str((self.root / "state").resolve())
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(STATE_VARIABLE) == mark:
                    found.append(process)
        return found

    def kill(self) -> None:
        """End the gateway by SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        """End the gateway by SIGTERM; return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def clean(self) -> None:
        """End everything, however it stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        for process in self.engine_processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        eventually(lambda: not self.engine_processes())


@contextlib.contextmanager
def gateway_home(root: Path) -> Iterator[GatewayHome]:
    """A home that is cleaned up whatever happens."""
    home = GatewayHome(root)
    try:
        yield home
    finally:
        home.clean()
