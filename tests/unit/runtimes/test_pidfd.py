from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest

from llm_backend.runtimes import pidfd

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["pidfd", "polling"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "polling":
        monkeypatch.setattr(pidfd, "_open", lambda _pid: None)
    return request.param


def orphan() -> int:
    """A process whose parent has left."""
    script = "sleep 600 >/dev/null 2>&1 & echo $!"
    shell = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
    return int(shell.stdout)


def child() -> int:
    """A process that only this one can reap."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    return pid


@pytest.mark.usefixtures("way")
async def test_end_of_a_process_that_is_no_child() -> None:
    pid = orphan()
    waiting = asyncio.create_task(pidfd.process_end(pid, lambda: _lives(pid)))
    assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, 20)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - as short
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("way")
async def test_another_process_with_the_number_is_not_waited_for() -> None:
    await asyncio.wait_for(pidfd.process_end(os.getpid(), lambda: False), 20)


async def test_child_is_reaped() -> None:
    pid = child()
    await asyncio.wait_for(pidfd.process_end(pid, lambda: _lives(pid)), 20)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await asyncio.wait_for(pidfd.process_end(pid, lambda: _lives(pid)), 20)


async def test_readable_leaves_no_reader_behind() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pidfd.readable(read_end), 0.01)
    assert not asyncio.get_running_loop().remove_reader(read_end)
    os.close(write_end)
    await asyncio.wait_for(pidfd.readable(read_end), 20)
    os.close(read_end)
