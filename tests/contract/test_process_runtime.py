"""What only the process runtime promises: kill -9 of anything leaves nothing and loses nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import llm_backend
from llm_backend.engines.base import LaunchPlan
from llm_backend.errors import EngineStartFailed, ServiceError
from tests.contract.benches import ProcessBench

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop is enough here: nothing below depends on it."""
    return "asyncio"


@pytest.fixture
def kind_of_bench() -> type[ProcessBench]:
    return ProcessBench


GATEWAY = """
import asyncio, json, sys
from pathlib import Path
from llm_backend.engines.base import LaunchPlan
from llm_backend.runtimes.process import ProcessRuntime

async def main():
    state_dir, lock_dir, plan, grace_s = json.loads(sys.argv[1])
    runtime = ProcessRuntime(Path(state_dir), Path(lock_dir))
    print("starting", flush=True)
    engine = await runtime.start(LaunchPlan(**plan))
    print("started", flush=True)
    if grace_s is not None:
        await runtime.stop(engine, grace_s)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def gateway(
    bench: ProcessBench, plan: LaunchPlan, grace_s: float | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts an engine (and stops it, given a grace), then does nothing."""
    task = [str(bench.state_dir), str(bench.lock_dir), dataclasses.asdict(plan), grace_s]
    with subprocess.Popen(
        [sys.executable, "-c", GATEWAY, json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(llm_backend.__file__).parents[1],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until the other process has printed a line."""
    assert process.stdout
    assert await asyncio.to_thread(process.stdout.readline) == f"{word}\n"


class TestGatewayKilled:
    async def test_its_engine_is_adopted_without_a_reload(self, bench: ProcessBench) -> None:
        plan = bench.plan("a", "--load-s", "0.2")
        with gateway(bench, plan) as killed:
            await said(killed, "starting")
            await said(killed, "started")
        (engine,) = await bench.runtime.survey([plan])
        await bench.event("a", "ready")
        assert (await bench.get(engine, "/health"))[0] == 200
        assert len(bench.journal("a", "start")) == 1
        assert (await bench.runtime.stop(engine, 5)).code == 0

    @pytest.mark.parametrize("delay_s", [0, 0.01, 0.02, 0.03, 0.04, 0.06])
    async def test_no_moment_of_a_start_loses_an_engine(
        self, bench: ProcessBench, delay_s: float
    ) -> None:
        plan = bench.plan("a")
        with gateway(bench, plan) as killed:
            await said(killed, "starting")
            await asyncio.sleep(delay_s)  # the moment, not a wait for anything
        adopted = await bench.runtime.survey([plan])
        if adopted:  # until its program runs, the engine looks like the launcher that it came from
            await bench.event("a", "start")
        launchers = [each.handle for each in adopted]
        assert launchers == [str(each.pid) for each in bench.processes() if is_launcher(each)]
        # Whatever the moment was, the model can be had now.
        engine = adopted[0] if adopted else await bench.start(plan)
        await bench.event("a", "ready", len(bench.journal("a", "ready")) or 1)
        await bench.runtime.stop(engine, 5)

    async def test_its_engine_keeps_others_out(self, bench: ProcessBench) -> None:
        with gateway(bench, bench.plan("a")) as killed:
            await said(killed, "starting")
            await said(killed, "started")
        with pytest.raises(EngineStartFailed, match="held by the engine of a"):
            await bench.start(bench.plan("b"))

    async def test_its_stop_is_finished_without_it(self, bench: ProcessBench) -> None:
        plan = bench.plan("a", "--ignore-sigterm", "--grandchild", stop_s=1)
        with gateway(bench, plan, grace_s=600) as killed:
            await said(killed, "starting")
            await said(killed, "started")
            await bench.until(lambda: is_stopping(bench))
        await bench.until(lambda: not bench.processes())
        assert await bench.runtime.survey([plan]) == []


def is_launcher(process: psutil.Process) -> bool:
    return any(word.endswith("launcher.py") for word in process.cmdline())


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; the dead may wait for init to take notice."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def descriptors(pid: int) -> dict[str, Path]:
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[link.name] = link.readlink()
    return found


def is_stopping(bench: ProcessBench) -> bool:
    return bool(json.loads((bench.state_dir / "engines/a.json").read_text()).get("stopping"))


class TestLauncherKilled:
    async def test_everything_goes_with_it(self, bench: ProcessBench) -> None:
        engine = await bench.start_ready(bench.plan("a", "--grandchild-holds-port"))
        os.kill(int(engine.handle), signal.SIGKILL)
        ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert (ended.code, ended.reason) == (None, "its launcher was killed")
        assert bench.processes() == []
        assert bench.held_locks() == []
        assert bench.bound_ports() == []

    async def test_what_is_left_is_ended_by_the_next_gateway(self, bench: ProcessBench) -> None:
        plan = bench.plan("a", "--grandchild")
        engine = await bench.start_ready(plan)
        await bench.runtime.close()
        os.kill(int(engine.handle), signal.SIGKILL)
        await bench.until(lambda: len(bench.processes()) == 1)
        assert bench.held_locks() == ["engine-cpu.lock"], "the grandchild should hold the lock"
        assert await bench.new_runtime().survey([plan]) == []
        assert bench.processes() == []
        assert bench.held_locks() == []

    async def test_process_without_marks_is_known_by_the_lock(self, bench: ProcessBench) -> None:
        daemon = "env -i setsid sleep 600 & echo $! ; sleep 600"
        engine = await bench.start(_plan("sh", "-c", daemon))
        unmarked = psutil.Process(int(await anext(bench.runtime.follow_log("a", 1))))
        await bench.until(lambda: unmarked.name() == "sleep")
        assert unmarked not in bench.processes()
        os.kill(int(engine.handle), signal.SIGKILL)
        await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert not is_alive(unmarked)

    async def test_frozen_launcher_does_not_hold_up_a_stop(self, bench: ProcessBench) -> None:
        engine = await bench.start_ready(bench.plan("a", "--grandchild"))
        os.kill(int(engine.handle), signal.SIGSTOP)
        ended = await asyncio.wait_for(bench.runtime.stop(engine, 0.1), 30)
        assert ended.reason == "its launcher was killed"
        assert bench.processes() == []


class TestKilledAtRest:
    @pytest.mark.parametrize("who", ["launcher", "engine"])
    async def test_nothing_is_left_and_the_lock_stays_with_the_awake_one(
        self, bench: ProcessBench, who: str
    ) -> None:
        sleeper = await bench.start_ready(bench.plan("a", "--grandchild-holds-port"))
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(bench.plan("b"))
        started = bench.journal("a", "start")[0]["pid"]
        os.kill(int(sleeper.handle) if who == "launcher" else started, signal.SIGKILL)
        ended = await asyncio.wait_for(bench.runtime.wait(sleeper), 20)
        assert ended.code == (None if who == "launcher" else -9)
        assert bench.bound_ports() == [awake.port]
        assert bench.held_locks() == ["engine-cpu.lock"]
        assert await bench.runtime.poll(awake) is None
        await bench.runtime.stop(awake, 5)
        assert bench.processes() == []
        assert bench.held_locks() == []

    async def test_the_next_gateway_ends_it_and_keeps_the_awake_one(
        self, bench: ProcessBench
    ) -> None:
        plans = [bench.plan("a", "--grandchild"), bench.plan("b")]
        sleeper = await bench.start_ready(plans[0])
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(plans[1])
        await bench.runtime.close()
        os.kill(int(sleeper.handle), signal.SIGKILL)
        following = bench.new_runtime()
        assert await following.survey(plans) == [awake]
        assert {int(awake.handle)} == {each.pid for each in bench.processes() if is_launcher(each)}
        assert bench.bound_ports() == [awake.port]

    async def test_a_rest_that_was_not_finished_is_one(self, bench: ProcessBench) -> None:
        # As if the launcher had been killed between its record and the lock.
        plan = bench.plan("a")
        await bench.start_ready(plan)
        await bench.runtime.close()
        record = bench.state_dir / "engines/a.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "rests": True}))
        assert await bench.new_runtime().survey([plan]) == []
        assert bench.processes() == []
        assert bench.held_locks() == []


class TestLauncherThatDoesNotRest:
    @pytest.mark.slow
    async def test_frozen_one_is_given_up_in_time(self, bench: ProcessBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        os.kill(int(engine.handle), signal.SIGSTOP)
        with pytest.raises(ServiceError, match="cannot rest: its launcher does not answer"):
            await asyncio.wait_for(bench.runtime.rest(engine), 20)
        with suppress(ProcessLookupError):
            os.kill(int(engine.handle), signal.SIGCONT)
        # The calls are answered in their order: the last one counts.
        await bench.runtime.rouse(engine)
        assert bench.held_locks() == ["engine-cpu.lock"]

    async def test_one_of_an_earlier_release_is_not_asked(self, bench: ProcessBench) -> None:
        # The signals would end it.
        engine = await bench.start_ready(bench.plan("a"))
        record = bench.state_dir / "engines/a.json"
        known = json.loads(record.read_text())
        del known["answers"], known["rests"]
        record.write_text(json.dumps(known))
        with pytest.raises(ServiceError, match="cannot rest"):
            await bench.runtime.rest(engine)
        with pytest.raises(EngineStartFailed, match="cannot be roused"):
            await bench.runtime.rouse(engine)
        assert bench.held_locks() == ["engine-cpu.lock"]
        assert (await bench.get(engine, "/health"))[0] == 200

    async def test_one_that_cannot_write_it_down_keeps_the_lock(self, bench: ProcessBench) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        blocked = bench.state_dir / "engines/a.json.tmp"
        blocked.mkdir()
        resting = asyncio.create_task(bench.runtime.rest(engine))
        log = bench.state_dir / "logs/a.log"
        await bench.until(lambda: "a.json could not be written" in log.read_text())
        assert bench.held_locks() == ["engine-cpu.lock"]
        blocked.rmdir()
        with pytest.raises(ServiceError, match="cannot rest: its record could not be written"):
            await resting
        await bench.runtime.rest(engine)
        assert bench.held_locks() == []


class TestSurvey:
    async def test_engine_without_a_record_is_ended(self, bench: ProcessBench) -> None:
        await bench.start_ready(bench.plan("a", "--grandchild"))
        await bench.runtime.close()
        (bench.state_dir / "engines/a.json").write_text("{")
        assert await bench.new_runtime().survey([bench.plan("a")]) == []
        assert bench.processes() == []

    async def test_engines_of_another_state_directory_are_left_alone(
        self, bench: ProcessBench, tmp_path: Path
    ) -> None:
        other = type(bench)(tmp_path / "other")
        (tmp_path / "other").mkdir()
        engine = await other.start_ready(other.plan("a"))
        try:
            assert await bench.runtime.survey([bench.plan("a")]) == []
            assert (await other.get(engine, "/health"))[0] == 200
        finally:
            await other.close()


class TestEngineProcess:
    async def test_it_inherits_the_lock_and_nothing_else(self, bench: ProcessBench) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.set_inheritable(True)  # as uvicorn does with its own
            engine = await bench.start(_plan("sleep", "600"))
        (process,) = psutil.Process(int(engine.handle)).children()
        log, lock = bench.state_dir / "logs/a.log", bench.lock_dir / "engine-cpu.lock"
        # Just executed, it has its libraries open for an instant.
        inherited = [Path(os.devnull), log, log, lock]
        await bench.until(lambda: sorted(descriptors(process.pid).values()) == sorted(inherited))

    async def test_its_environment(
        self, bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLM_CACHE__REDIS_URL", "redis://:password@host")
        monkeypatch.setenv("HF_HOME", "/weights")
        engine = await bench.start(_plan("env", env={"ANSWER": "42"}))
        await bench.runtime.wait(engine)
        names = dict(line.split("=", 1) for line in await bench.runtime.log_tail("a", 500))
        assert (names["ANSWER"], names["HF_HOME"]) == ("42", "/weights")
        assert names["LLM_BACKEND_ENGINE"] == engine.instance
        assert "LLM_CACHE__REDIS_URL" not in names

    async def test_its_signals_are_as_a_shell_would_leave_them(self, bench: ProcessBench) -> None:
        engine = await bench.start(_plan("grep", "^Sig", "/proc/self/status"))
        await bench.runtime.wait(engine)
        masks = dict(line.split(":\t") for line in await bench.runtime.log_tail("a", 9))
        # Signals from 32 on belong to the C library; some parents leave one of those ignored.
        ours = 0x7FFF_FFFF
        assert int(masks["SigBlk"], 16) & ours == int(masks["SigIgn"], 16) & ours == 0

    async def test_port_and_working_directory(self, bench: ProcessBench, tmp_path: Path) -> None:
        engine = await bench.start(_plan("sh", "-c", "echo {port} '{}'; pwd", cwd=str(tmp_path)))
        await bench.runtime.wait(engine)
        assert engine.port > 0
        assert await bench.runtime.log_tail("a", 9) == [f"{engine.port} {{}}", str(tmp_path)]

    async def test_missing_working_directory_is_named(self, bench: ProcessBench) -> None:
        with pytest.raises(EngineStartFailed, match="sleep cannot be run in /no/dir: No such file"):
            await bench.start(_plan("sleep", "1", cwd="/no/dir"))

    async def test_address_of_another_host_is_named(self, bench: ProcessBench) -> None:
        with pytest.raises(EngineStartFailed, match="Cannot assign requested address"):
            await bench.start(_plan("sleep", "1", host="192.0.2.1"))


async def test_log_of_a_talkative_engine_is_bounded(bench: ProcessBench) -> None:
    runtime = bench.new_runtime(log_limit=64 * 1024)
    talk = "import time\nfor n in range(10**6): print(n, '-' * 1000, flush=True); time.sleep(0.002)"
    engine = await bench.start(_plan(sys.executable, "-c", talk), runtime)
    before = bench.state_dir / "logs/a.log.1"
    numbers: list[int] = []

    async def collect() -> None:
        async for line in runtime.follow_log("a"):
            numbers.append(int(line.split()[0]))  # noqa: PERF401 - it is read as it grows

    collecting = asyncio.create_task(collect())
    await bench.until(before.exists)
    enough = len(numbers) + 100
    await bench.until(lambda: len(numbers) > enough)
    collecting.cancel()
    await runtime.stop(engine, 5)
    assert before.stat().st_size >= 64 * 1024
    gaps = sum(after - number != 1 for number, after in itertools.pairwise(numbers))
    # On a slow machine the log may be cut a second time before we stop looking.
    assert gaps <= 2, "more was lost than what came between the copy and the truncation"


async def test_lock_held_by_a_stranger_is_told(bench: ProcessBench) -> None:
    lock = bench.lock_dir / "engine-cpu.lock"
    bench.lock_dir.mkdir()
    with lock.open("w") as stranger:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with pytest.raises(EngineStartFailed, match="group cpu is held by another process"):
            await bench.start(bench.plan("a"))
    await bench.start(bench.plan("a"))


async def test_looking_at_a_lock_keeps_no_engine_out(bench: ProcessBench) -> None:
    bench.lock_dir.mkdir()
    with (bench.lock_dir / "engine-cpu.lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        starting = asyncio.create_task(bench.start(bench.plan("a")))
        await bench.until(bench.processes)
    await starting


async def test_launcher_that_cannot_write_its_record_starts_nothing(bench: ProcessBench) -> None:
    (bench.state_dir / "engines/a.json.tmp").mkdir(parents=True)
    with pytest.raises(EngineStartFailed, match="Is a directory"):
        await bench.start(bench.plan("a"))
    assert bench.journal("a", "start") == []


def _plan(*argv: str, **fields: object) -> LaunchPlan:
    return LaunchPlan(model="a", group="cpu", served_name="a", argv=argv, **fields)
