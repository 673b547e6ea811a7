from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llm_backend.runtimes import ports
from llm_backend.runtimes.ports import free_port

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_none_that_an_outgoing_connection_may_have(host: str) -> None:
    assert 1024 < free_port(host) < int(RANGE.read_text().split()[0])


def test_none_is_named_twice_in_a_row() -> None:
    assert len({free_port("127.0.0.1") for _ in range(100)}) == 100


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port("127.0.0.1")
    monkeypatch.setattr(ports, "_turn", iter(range(_turn_of(first), 100_000)))
    with socket.create_server(("127.0.0.1", first)):
        assert free_port("127.0.0.1") < first


@pytest.mark.parametrize("text", ["1024 65535", "nonsense", ""])
def test_any_range_leaves_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "range").write_text(text)
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")

    port = free_port("127.0.0.1")

    with socket.create_server(("127.0.0.1", port)):
        pass


def _turn_of(port: int) -> int:
    return int(RANGE.read_text().split()[0]) - 1 - port
