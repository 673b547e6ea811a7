from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_backend.errors import AlreadyRunning
from llm_backend.runtimes.locks import (
    Holder,
    engine_lock,
    gateway_lock,
    holding_processes,
    is_held,
    read_holder,
)


def test_second_gateway_is_told_who_is_first_and_what_to_type(tmp_path: Path) -> None:
    with gateway_lock(tmp_path / "locks"):
        with pytest.raises(AlreadyRunning) as caught, gateway_lock(tmp_path / "locks"):
            pytest.fail("two gateways hold the lock")
        assert caught.value.text == (
            f"Another gateway (pid {os.getpid()}) holds {tmp_path}/locks/gateway.lock. "
            "Stop it with: llm-backend stop"
        )
    with gateway_lock(tmp_path / "locks"):
        pass


def test_gateway_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="True"), gateway_lock(tmp_path):
        raise RuntimeError(is_held(tmp_path / "gateway.lock"))
    assert not is_held(tmp_path / "gateway.lock")


def test_holder_is_read_whether_the_lock_is_held_or_not(tmp_path: Path) -> None:
    with gateway_lock(tmp_path):
        assert read_holder(tmp_path / "gateway.lock") == Holder(os.getpid(), "the gateway")
    assert read_holder(tmp_path / "gateway.lock") == Holder(os.getpid(), "the gateway")


@pytest.mark.parametrize("text", ["", "{", "7", "{}", '{"pid": null, "what": ""}'])
def test_unreadable_holder_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    assert read_holder(tmp_path / "lock") is None


def test_lock_that_nobody_ever_took(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "lock") is None
    assert not is_held(tmp_path / "lock")
    assert holding_processes(tmp_path / "lock") == []


def test_file_name_of_a_group_is_safe(tmp_path: Path) -> None:
    assert engine_lock(tmp_path, "gpu/0:1") == tmp_path / "engine-gpu_0_1.lock"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lock_outlives_its_taker_in_the_process_that_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "gateway.lock"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        with gateway_lock(tmp_path):
            (descriptor,) = (
                int(link.name)
                for link in Path("/proc/self/fd").iterdir()
                if link.is_symlink() and link.readlink() == path
            )
            heir = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(descriptor,)
            )
            assert holding_processes(path) == sorted([os.getpid(), heir.pid])
        with heir:
            assert is_held(path)
            assert holding_processes(path) == [heir.pid]
            assert heir.stdin
            heir.stdin.close()
        assert stranger.stdin
        stranger.stdin.close()
    assert not is_held(path)


def test_two_who_look_do_not_take_each_other_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_held(path)
        assert holding_processes(path) == []
