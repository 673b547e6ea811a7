"""A fake engine as a program, seen from outside."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

import llm_backend
from llm_backend.runtimes.ports import free_port
from llm_backend.testing import fake_engine

ROOT = Path(llm_backend.__file__).parents[1]


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


class Program:
    """A fake engine as a process, its client and its journal."""

    def __init__(self, journal: Path, *flags: str, ready: bool = True) -> None:
        self.port = free_port("127.0.0.1")
        command = fake_engine.command("--journal", str(journal), *flags)
        self.log = journal.with_name("log")
        with self.log.open("w") as log:
            argv = [word.replace("{port}", str(self.port)) for word in command]
            self.process = subprocess.Popen(argv, stderr=log, cwd=ROOT)
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        self._journal = journal
        if ready:
            self.until("ready")

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def until(self, event: str) -> dict[str, Any]:
        return until(lambda: self.events(event))[0]

    def frames(self, path: str, body: dict[str, Any]) -> list[str]:
        """The data of a stream's events, as far as they come."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = list(response.iter_lines())
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    def text(self, frames: list[str]) -> str:
        chunks = [json.loads(each) for each in frames if each != "[DONE]"]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        return "".join(delta.get("content", "") for delta in deltas)

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
