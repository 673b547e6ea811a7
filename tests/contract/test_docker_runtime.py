"""What only the docker runtime promises, whatever is done to its containers behind its back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.types import DeviceRequest

from llm_backend.errors import EngineStartFailed, ServiceError
from llm_backend.runtimes.base import Engine
from tests.contract.benches import DockerBench, ProcessBench
from tests.docker_filter import docker_filter
from tests.harness import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

FOREIGN_S = 2.0
"""Within this time a start that is nobody's is ended."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop is enough here: nothing below depends on it."""
    return "asyncio"


@pytest.fixture
def kind_of_bench() -> type[DockerBench]:
    return DockerBench


def state(bench: DockerBench, model: str) -> Any:
    return bench.docker.inspect_container(bench.name(model))["State"]


async def ends(bench: DockerBench, engine: Engine) -> tuple[int | None, str]:
    ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
    assert not state(bench, engine.model)["Running"]
    return ended.code, ended.reason


class TestExit:
    async def test_a_kill_behind_its_back_is_seen(self, bench: DockerBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        bench.docker.kill(engine.handle)
        assert await ends(bench, engine) == (-9, "killed by SIGKILL (out of memory?)")
        assert bench.held_locks() == []

    async def test_out_of_memory_is_told_and_not_told_of_the_next_run(
        self, bench: DockerBench
    ) -> None:
        plan = bench.plan("a")
        greedy = (sys.executable, "-c", "import time; time.sleep(0.5); x = b'x' * (512 << 20)")
        bench.create("a", greedy, mem_limit="64m", memswap_limit="64m")
        engine = await bench.start(plan)
        assert await ends(bench, engine) == (-9, "killed by SIGKILL: out of memory")

        engine = await bench.start(plan)
        bench.docker.kill(engine.handle)
        assert await ends(bench, engine) == (-9, "killed by SIGKILL (out of memory?)")

    async def test_a_container_that_is_removed_has_ended(self, bench: DockerBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        bench.remove("a")
        ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert ended.code == -9
        assert await bench.runtime.stop(engine, 1) == ended

    async def test_a_restart_behind_its_back_is_an_exit_and_a_foreign_start(
        self, bench: DockerBench
    ) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        await asyncio.to_thread(bench.docker.restart, engine.handle, 5)
        assert (await asyncio.wait_for(bench.runtime.wait(engine), 20)).code == 0
        await bench.until(lambda: not state(bench, "a")["Running"])


class TestStart:
    async def test_a_container_that_is_still_stopping_is_waited_for(
        self, bench: DockerBench
    ) -> None:
        plan = bench.plan("a", "--ignore-sigterm", stop_s=3)
        bench.docker.start(bench.name("a"))
        await bench.event("a", "ready")
        stopping = asyncio.create_task(asyncio.to_thread(bench.docker.stop, bench.name("a"), 2))
        await bench.event("a", "sigterm")
        engine = await bench.start(plan)
        await stopping
        await bench.event("a", "ready", 2)
        assert await bench.runtime.poll(engine) is None

    @pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
    async def test_what_runs_under_its_name_goes_first(
        self, bench: DockerBench, paused: bool
    ) -> None:
        plan = bench.plan("a")
        bench.docker.start(bench.name("a"))
        await bench.event("a", "ready")
        if paused:
            bench.docker.pause(bench.name("a"))
        engine = await bench.start(plan)
        await bench.event("a", "ready", 2)
        assert engine.instance.endswith(state(bench, "a")["StartedAt"])
        assert (await bench.get(engine, "/health"))[0] == 200

    async def test_no_container_names_the_command_that_makes_it(self, bench: DockerBench) -> None:
        plan = bench.plan("a")
        bench.remove("a")
        with pytest.raises(EngineStartFailed) as caught:
            await bench.start(plan)
        name = bench.name("a")
        assert f"The engine of a could not be started: there is no container {name}." in str(
            caught.value
        )
        assert "llm-backend start --setup compose" in str(caught.value)
        assert bench.held_locks() == []

    async def test_a_port_that_is_taken_is_named(self, bench: DockerBench) -> None:
        plan = bench.plan("a")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            bench.create(
                "a",
                plan.argv,
                network_mode="bridge",
                port_bindings={8000: ("127.0.0.1", port)},
            )
            with pytest.raises(EngineStartFailed) as caught:
                await bench.start(plan)
        assert "is taken by another program" in caught.value.message
        assert "ss -ltnp" in caught.value.text
        assert not state(bench, "a")["Running"]

    async def test_no_gpu_driver_is_told(self, bench: DockerBench) -> None:
        plan = bench.plan("a")
        gpu = DeviceRequest(driver="none-such", count=1, capabilities=[["gpu"]])
        bench.create("a", plan.argv, device_requests=[gpu])
        with pytest.raises(EngineStartFailed, match="Docker cannot give it the GPU") as caught:
            await bench.start(plan)
        assert "llm-backend doctor" in caught.value.text
        assert bench.held_locks() == []

    async def test_a_plan_without_a_container_is_refused(self, bench: DockerBench) -> None:
        with pytest.raises(EngineStartFailed, match="names no container"):
            await bench.start(bench.plan("a", container=None))

    async def test_processes_and_containers_exclude_each_other(
        self, bench: DockerBench, tmp_path: Path
    ) -> None:
        (tmp_path / "local").mkdir()
        local = ProcessBench(tmp_path / "local")
        local.lock_dir = bench.lock_dir
        runtime = local.new_runtime()
        try:
            first = await bench.start_ready(bench.plan("a"))
            with pytest.raises(EngineStartFailed, match=f"engine of a in container {first.handle}"):
                await local.start(local.plan("b"), runtime)
            await bench.runtime.stop(first, 5)

            second = await local.start(local.plan("b"), runtime)
            with pytest.raises(EngineStartFailed, match="held by the engine of b"):
                await bench.start(bench.plan("a"))
            await runtime.stop(second, 5)
            await bench.start(bench.plan("a"))
        finally:
            await bench.runtime.survey([])
            await local.close()


class TestStop:
    async def test_a_paused_engine_is_ended(self, bench: DockerBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        bench.docker.pause(engine.handle)
        assert await bench.runtime.poll(engine) is None
        assert (await asyncio.wait_for(bench.runtime.stop(engine, 2), 20)).code in {0, -9}
        assert not state(bench, "a")["Running"]


class TestForeignStart:
    async def test_it_is_ended_in_time_and_gets_no_request(self, bench: DockerBench) -> None:
        await bench.runtime.survey([bench.plan("a"), bench.plan("b")])
        engine = await bench.start_ready(bench.plan("a"))
        for _ in range(3):
            began = time.monotonic()
            bench.docker.start(bench.name("b"))
            await bench.until(lambda: not state(bench, "b")["Running"])
            assert time.monotonic() - began < FOREIGN_S
        assert await bench.runtime.poll(engine) is None
        assert bench.journal("b", "request") == []
        assert (await bench.get(engine, "/health"))[0] == 200

    async def test_it_is_seen_after_the_engine_has_ended(self, bench: DockerBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        await bench.runtime.stop(engine, 5)
        bench.docker.start(bench.name("a"))
        await bench.until(lambda: not state(bench, "a")["Running"])
        assert await bench.runtime.poll(engine) is not None

    async def test_other_containers_are_left_alone(self, bench: DockerBench) -> None:
        await bench.runtime.survey([bench.plan("a")])
        bench.plan("b")
        bench.docker.start(bench.name("b"))
        await bench.event("b", "ready")
        engine = await bench.start_ready(bench.plan("a"))
        await bench.runtime.stop(engine, 5)
        assert state(bench, "b")["Running"]
        bench.remove("b")


class TestSurvey:
    @pytest.mark.parametrize("how", ["by hand", "half started", "paused", "restarted"])
    async def test_what_cannot_be_used_is_ended(self, bench: DockerBench, how: str) -> None:
        # What is nobody's gets no time to end.
        plan = bench.plan("a", *(["--ignore-sigterm"] if how == "by hand" else []), stop_s=60)
        if how == "by hand":
            bench.docker.start(bench.name("a"))
            await bench.event("a", "ready")
        else:
            engine = await bench.start_ready(plan)
            await bench.runtime.close()
            record = bench.state_dir / "engines/a.docker.json"
            if how == "half started":
                record.write_text(json.dumps({**json.loads(record.read_text()), "started": ""}))
            elif how == "paused":
                bench.docker.pause(engine.handle)
            else:
                await asyncio.to_thread(bench.docker.restart, engine.handle, 5)
        assert await asyncio.wait_for(bench.new_runtime().survey([plan]), 20) == []
        assert bench.processes() == []

    async def test_an_engine_beside_that_of_another_setup_is_ended(
        self, bench: DockerBench, tmp_path: Path
    ) -> None:
        # The container ran on while no gateway held its lock.
        plan = bench.plan("a")
        await bench.start_ready(plan)
        await bench.runtime.close()
        (tmp_path / "local").mkdir()
        local = ProcessBench(tmp_path / "local")
        local.lock_dir = bench.lock_dir
        try:
            await local.start(local.plan("b"), local.new_runtime())
            assert await bench.new_runtime().survey([plan]) == []
            assert bench.processes() == []
        finally:
            await local.close()


class TestBehindTheFilter:
    async def test_all_that_a_gateway_does_gets_through(self, bench: DockerBench) -> None:
        plan, other = bench.plan("a"), bench.plan("b")
        names = f"{bench.name('a')}|{bench.name('b')}"
        with docker_filter(names, "/var/run/docker.sock") as (host, port):
            runtime = bench.new_runtime(host=f"tcp://{host}:{port}")
            assert await runtime.survey([plan, other]) == []
            engine = await bench.start(plan, runtime)
            lines = runtime.follow_log("a", 1000)
            await bench.event("a", "ready")
            while "startup complete" not in await asyncio.wait_for(anext(lines), 20):
                pass
            await lines.aclose()  # type: ignore[attr-defined]  # it is a generator
            bench.docker.start(bench.name("b"))
            await bench.until(lambda: not state(bench, "b")["Running"])
            assert await runtime.log_tail("a", 1) == ["INFO:     Application startup complete."]
            assert (await runtime.stop(engine, 5)).code == 0
            await runtime.close()

    async def test_a_name_that_the_filter_does_not_know_is_told(self, bench: DockerBench) -> None:
        with docker_filter("llm-x", "/var/run/docker.sock") as (host, port):
            runtime = bench.new_runtime(host=f"tcp://{host}:{port}")
            with pytest.raises(EngineStartFailed, match="filter in front of Docker") as caught:
                await bench.start(bench.plan("a"), runtime)
            await runtime.close()
        assert "ENGINE_CONTAINERS" in caught.value.text

    async def test_docker_gone_behind_it_is_docker_gone(
        self, bench: DockerBench, tmp_path: Path
    ) -> None:
        with docker_filter(bench.name("a"), tmp_path / "none.sock") as (host, port):
            runtime = bench.new_runtime(host=f"tcp://{host}:{port}")
            with pytest.raises(EngineStartFailed, match="Docker does not answer at tcp://"):
                await bench.start(bench.plan("a"), runtime)
            await runtime.close()


class Dockerd:
    """A Docker engine of its own, in a network namespace of its own."""

    def __init__(self, folder: Path, *, live_restore: bool) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = f"unix://{folder}/docker.sock"
        (folder / "daemon.json").write_text(json.dumps({"live-restore": live_restore}))

    def start(self) -> None:
        folder = self._folder
        (folder / "docker.pid").unlink(missing_ok=True)
        paths = ("data-root", "exec-root")
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--net", "dockerd", "--host", self.host),
                    *("--config-file", folder / "daemon.json", "--pidfile", folder / "docker.pid"),
                    *(f"--{path}={folder / path}" for path in paths),
                    *("--bridge", "none", "--iptables=false", "--storage-driver", "vfs"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.host.removeprefix("unix://"))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
        return False

    def end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def folder_of_dockerd() -> Iterator[Path]:
    if shutil.which("dockerd") is None:
        pytest.skip("there is no dockerd: bash tests/e2e/ground/install.sh (Debian, root)")
    # A socket's path has to be short.
    folder = Path(f"/tmp/llm-dockerd-{os.getpid()}")
    folder.mkdir()
    yield folder
    # Docker leaves a few mounts of its own behind.
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in mounts:
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)
    shutil.rmtree(folder)


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


# The SDK leaves the socket of a failed connection to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket.*family=1:ResourceWarning")
@pytest.mark.usefixtures("collected")
class TestDockerGone:
    @pytest.mark.parametrize("lives_on", [True, False], ids=["live-restore", "plain"])
    async def test_an_engine_is_not_dead_before_docker_says_so(
        self, tmp_path: Path, folder_of_dockerd: Path, lives_on: bool
    ) -> None:
        dockerd = Dockerd(folder_of_dockerd, live_restore=lives_on)
        await asyncio.to_thread(dockerd.start)
        try:
            bench = DockerBench(tmp_path, dockerd.host)
            engine = await bench.start_ready(bench.plan("a"))
            other = bench.plan("b", group="other")
            waiting = asyncio.create_task(bench.runtime.wait(engine))
            await asyncio.to_thread(dockerd.end)

            with pytest.raises(ServiceError, match=f"Docker does not answer at {dockerd.host}"):
                await bench.runtime.poll(engine)
            with pytest.raises(ServiceError, match="Docker does not answer"):
                await bench.runtime.stop(engine, 1)
            with pytest.raises(EngineStartFailed, match="Docker does not answer"):
                await bench.start(other)
            assert await bench.runtime.log_tail("a", 5) == []
            assert not waiting.done()

            await asyncio.to_thread(dockerd.start)
            if lives_on:
                assert await bench.runtime.poll(engine) is None
                assert (await bench.runtime.stop(engine, 5)).code == 0
            await asyncio.wait_for(waiting, 20)
            # Events are read again: a foreign start is seen.
            bench.docker.start(bench.name("a"))
            await bench.until(lambda: not state(bench, "a")["Running"])
            await bench.close()
        finally:
            await asyncio.to_thread(dockerd.end)
