"""How the gateway says where it is, and why it cannot start; all else is in tests/integration."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llm_backend.config import load_settings
from llm_backend.config.settings import KeySettings, Settings
from llm_backend.core import lock_dir, rules_of
from llm_backend.errors import AlreadyRunning, ConfigError, SetupError
from llm_backend.runtimes.locks import gateway_lock
from llm_backend.server import Address, _listening, _run_record, run


def settings(folder: Path, host: str = "127.0.0.1", port: int = 0) -> Settings:
    return Settings(state_dir=folder / "state", server={"host": host, "port": port})


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:{}"),
        ("localhost", "http://localhost:{}"),
        ("0.0.0.0", "http://127.0.0.1:{}"),
        ("::1", "http://[::1]:{}"),
        ("::", "http://[::1]:{}"),
    ],
)
def test_the_address_is_one_that_can_be_reached(tmp_path: Path, host: str, url: str) -> None:
    wanted = settings(tmp_path, host)
    with _listening(wanted) as listener:
        address = Address.of(listener, wanted)
        assert address.url == url.format(address.port)
        socket.create_connection((address.host, address.port), timeout=5).close()


def test_a_port_that_is_taken_names_another_way(tmp_path: Path, taken: int) -> None:
    with pytest.raises(SetupError) as raised, _listening(settings(tmp_path, port=taken)):
        pass
    assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in str(raised.value)
    assert "LLM_SERVER__PORT=7001 bash scripts/start_all.sh" in str(raised.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours(tmp_path: Path, host: str) -> None:
    with (
        pytest.raises(SetupError, match=f"cannot listen on {host}:0"),
        _listening(settings(tmp_path, host)),
    ):
        pass


def test_the_run_record_is_there_while_it_runs(tmp_path: Path) -> None:
    wanted, path = settings(tmp_path), tmp_path / "state/gateway.json"
    with _run_record(wanted, Address("127.0.0.1", 7000), tmp_path / "gateway.log"):
        record = json.loads(path.read_bytes())
        assert record["pid"] == os.getpid()
        assert record["url"] == "http://127.0.0.1:7000"
        assert record["log"] == str(tmp_path / "gateway.log")
    assert not path.exists()


def write_config(root: Path, **more: object) -> Settings:
    (root / "config").mkdir()
    model = {
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": ["true"]},
        "capabilities": ["chat"],
        "devices": ["cpu"],
    }
    catalog = {"devices": {"cpu": {"kind": "cpu"}}, "models": {"a": model}}
    (root / "config/models.yaml").write_text(yaml.safe_dump(catalog))
    gateway = {"setup": "local", "state_dir": str(root / "state"), "server": {"port": 0}, **more}
    (root / "config/gateway.yaml").write_text(yaml.safe_dump(gateway))
    return load_settings(root, {}, {})


def test_a_second_gateway_is_told_of_the_first(tmp_path: Path) -> None:
    wanted = write_config(tmp_path)
    with gateway_lock(lock_dir(wanted)), pytest.raises(AlreadyRunning, match=str(os.getpid())):
        run(wanted)


def test_beyond_loopback_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    wanted = write_config(tmp_path, server={"port": 0, "host": "0.0.0.0"})
    with pytest.raises(ConfigError, match=r"no key has the scope .infer."):
        run(wanted)
    assert not (tmp_path / "state/gateway.json").exists()


def test_places_of_the_queue_are_set_apart_where_there_are_several_keys() -> None:
    keys = tuple(KeySettings(name=name, sha256=name * 64) for name in "ab")
    reserves = [rules_of(Settings(keys=keys[:n]), {}).queue_reserve for n in (0, 1, 2)]
    assert reserves == [0, 0, 64]
