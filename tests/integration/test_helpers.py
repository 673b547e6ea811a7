"""Engines of several processes: a tokenizer before the model, as an NPU service has them.

The gateway is the real one. The two programs are stand-ins of the same processes and ports.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_backend.runtimes.ports import free_port
from llm_backend.testing import fake_npu
from tests.harness import GatewayHome, eventually, gateway_home

pytestmark = [pytest.mark.engine, pytest.mark.feature("engine with helper processes")]

HELLO = [{"role": "user", "content": "Hello there"}]


class Service:
    """A gateway with one NPU service, and what can be seen of its processes."""

    def __init__(self, home: GatewayHome, ports: dict[str, int]) -> None:
        self.home = home
        self.ports = ports

    @property
    def journal(self) -> list[tuple[str, str]]:
        """What the processes noted: event and part."""
        path = self.home.root / "npu.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(note["event"], note["part"]) for note in map(json.loads, lines)]

    def ask(self, **fields: Any) -> Any:
        return self.home.chat("npu", messages=HELLO, **fields)

    def helpers(self) -> dict[str, str]:
        shown: dict[str, str] = self.home.get("/health").json()["helpers"]
        return shown

    def process(self, part: str) -> psutil.Process:
        """The process of a part; a program that only waits for it has the same words."""
        (found,) = [p for p in self.home.engine_processes() if _is_part(p, part)]
        return found

    def ports_bound(self) -> list[str]:
        return [part for part, port in self.ports.items() if _is_bound(port)]


def _is_part(process: psutil.Process, part: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:4] == ["-m", fake_npu.__name__, part]
    return False


def _is_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def entry(root: Path, ports: dict[str, int], **engine: Any) -> dict[str, Any]:
    """The entry of the catalog for such a service."""
    program = [sys.executable, "-m", fake_npu.__name__]
    journal = ["--journal", str(root / "npu.jsonl")]
    tokenizer = {
        "name": "tokenizer",
        "argv": [*program, "tokenizer", "--port", "{port}", *journal],
        "port": ports.get("tokenizer", 0),
        "ready_path": "/health",
        "start_s": 30,
    }
    where = ["--url-tokenizer", "http://127.0.0.1:{tokenizer.port}"]
    return {
        "runtimes": ["process"],
        "engine": {
            "kind": "command",
            "argv": [*program, "model", "--port", "{port}", *where, *journal],
            "helpers": [tokenizer],
            "health": {"npu": {"path": "/health", "field": "npu"}},
            **engine,
        },
        "port": ports.get("model", 0),
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "timeouts": {"start_s": 30, "stop_s": 5},
    }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    ports = {"tokenizer": free_port("127.0.0.1"), "model": free_port("127.0.0.1")}
    with gateway_home(tmp_path) as home:
        home.configure({"npu": entry(tmp_path, ports)})
        home.start()
        yield Service(home, ports)


def test_the_two_processes_serve_as_one_engine(service: Service) -> None:
    assert service.helpers() == {}
    answer = service.ask(max_tokens=5)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert service.helpers() == {"tokenizer": "ok", "model": "ok", "npu": "2 of 2 cores"}
    assert service.journal == [("start", "tokenizer"), ("start", "model")]

    streamed = service.ask(stream=True, max_tokens=5)
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_unloading_ends_them_in_the_reverse_order(service: Service) -> None:
    assert service.ask().status_code == 200
    home = service.home
    unloaded = home.post("/api/v1/inference/unload", {"model": "npu"}, headers=home.admin)
    assert unloaded.status_code == 200, unloaded.text
    assert service.journal[2:] == [("exit", "model"), ("exit", "tokenizer")]
    assert service.home.engine_processes() == []
    assert service.ports_bound() == []


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("tokenizer", "its helper tokenizer was killed by SIGKILL"),
        ("model", "killed by SIGKILL"),
    ],
)
def test_a_process_that_dies_ends_all_and_they_come_back(
    service: Service, part: str, why: str
) -> None:
    assert service.ask().status_code == 200
    service.process(part).kill()
    eventually(lambda: service.home.state("npu") == "failed")
    reason = service.home.get("/health").json()["models"]["npu"]["reason"]
    assert why in reason, reason
    assert reason.endswith("while it was awake.")
    assert service.home.engine_processes() == []
    assert service.ports_bound() == []

    assert service.ask().status_code == 200
    assert service.helpers()["tokenizer"] == "ok"
    assert service.journal.count(("start", "tokenizer")) == 2


def test_a_helper_that_dies_at_its_start_is_explained_with_its_last_words(tmp_path: Path) -> None:
    broken = {
        "name": "tokenizer",
        "argv": ["sh", "-c", "echo 'no vocabulary here' >&2; exit 3"],
    }
    with gateway_home(tmp_path) as home:
        home.configure({"npu": entry(tmp_path, {}, helpers=[broken])})
        home.start()
        answer = home.chat("npu", messages=HELLO)
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert "its helper tokenizer exited with status 3 before it was ready" in message
        assert "no vocabulary here" in message
        assert Service(home, {}).journal == []
        assert home.engine_processes() == []


def test_a_helper_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    mute = {"name": "tokenizer", "argv": ["sleep", "600"], "start_s": 0.5}
    with gateway_home(tmp_path) as home:
        home.configure({"npu": entry(tmp_path, {}, helpers=[mute])})
        home.start()
        answer = home.chat("npu", messages=HELLO)
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert "its helper tokenizer was not ready within 0.5 s" in message
        assert home.engine_processes() == []


@pytest.mark.parametrize("part", ["tokenizer", "model"])
def test_a_port_that_is_taken_is_told(service: Service, part: str) -> None:
    port = service.ports[part]
    with socket.create_server(("127.0.0.1", port)):
        answer = service.ask()
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    whose = "its helper tokenizer" if part == "tokenizer" else "npu"
    assert f"the port {port} of {whose} is taken by " in message
    assert f"(pid {psutil.Process().pid})" in message
    assert "llm-backend config check" in message
    assert service.journal == []
    assert service.home.engine_processes() == []

    assert service.ask().status_code == 200


def test_they_outlive_the_gateway_and_are_taken_over(service: Service) -> None:
    assert service.ask().status_code == 200
    service.home.kill()
    service.home.start()
    eventually(lambda: service.home.state("npu") == "awake")
    assert service.helpers() == {"tokenizer": "ok", "model": "ok", "npu": "2 of 2 cores"}
    assert service.ask().status_code == 200
    assert service.journal == [("start", "tokenizer"), ("start", "model")]


def test_another_revision_is_started_anew(service: Service) -> None:
    home = service.home
    assert service.ask().status_code == 200
    home.kill()
    home.configure({"npu": entry(home.root, service.ports, revision="2")})
    home.start()
    assert service.ask().status_code == 200
    assert service.journal.count(("start", "tokenizer")) == 2
    assert service.journal.count(("exit", "tokenizer")) == 1
