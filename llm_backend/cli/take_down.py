"""Ending the gateway and every engine, also where no gateway is left to do it."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from llm_backend.cli.compose import catalog_containers, stack_of
from llm_backend.cli.control import Control, RunRecord, find_gateway
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Report
from llm_backend.errors import AlreadyRunning, LLMBackendError, SetupError
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.runtimes.records import Records

TERM_S = 20.0
"""How long a gateway may take from SIGTERM until it has ended."""
KILL_S = 5.0
"""How long the kernel may take to end it after SIGKILL."""
SWEEP_S = 90.0
"""How long ending the engines that are left may take."""
TURN_S = 90.0
"""How long one start or stop waits for another one to finish."""
POLL_S = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Ended:
    """What was ended.

    Attributes:
        gateway: The process id of the gateway; None where none ran, or it was in a container.
        models: Those whose engines were ended.
        forced: Whether the gateway had to be killed.
        services: Those of docker-compose.yml that ran.
    """

    gateway: int | None = None
    models: list[str] = field(default_factory=list)
    forced: bool = False
    services: list[str] = field(default_factory=list)


@contextmanager
def turn(state_dir: Path, wait_s: float | None = None) -> Iterator[None]:
    """Let one start or stop at a time change what runs on a state directory.

    Raises:
        AlreadyRunning: another start or stop did not finish in time.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + (TURN_S if wait_s is None else wait_s)
    with (state_dir / "start.lock").open("w") as file:
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                raise AlreadyRunning(
                    "Another start or stop is still at work.", hint="Look: llm-backend status"
                )
            time.sleep(POLL_S)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_down(project: Project, patience_s: float, report: Report) -> Ended:
    """End the gateway and every engine.

    First the polite way: unload, which lets running requests finish, then SIGTERM. Ctrl-C, or
    the end of all patience, leads to SIGKILL. Then whatever engine is left is ended.

    Args:
        project: What to end.
        patience_s: How long running requests may take to finish.
        report: Told what is waited for.

    Raises:
        SetupError: something does not end, not even by SIGKILL.
    """
    ended = Ended()
    record = find_gateway(project.state_dir)
    if record is not None:
        ended.gateway = None if record.in_container else record.pid
        try:
            report("unloading")
            ended.models = _unload(project, record, patience_s)
            report("waiting for the gateway to end")
            ended.forced = end_process(record.process, TERM_S)
        except KeyboardInterrupt:
            ended.forced = end_process(record.process, 0)
    report("ending what engines are left")
    with _undisturbed():
        ended.models += [model for model in sweep(project) if model not in ended.models]
        _take_down_containers(project, ended, report)
    # A gateway that was killed could not take its record back.
    (project.state_dir / "gateway.json").unlink(missing_ok=True)
    return ended


def _take_down_containers(project: Project, ended: Ended, report: Report) -> None:
    stack = stack_of(project)
    if stack is None:
        return
    ran = stack.down(report)
    engines = dict(catalog_containers(project))
    ended.models += [engines[name] for name in ran if name in engines]
    ended.services = [name for name in ran if name not in engines]


def _unload(project: Project, record: RunRecord, patience_s: float) -> list[str]:
    try:
        with Control(record, project.state_dir) as control:
            return control.unload(patience_s)
    except LLMBackendError:
        # A gateway that cannot do it is ended all the same, and its engines after it.
        return []


def end_process(process: psutil.Process | None, grace_s: float) -> bool:
    """End a process; return whether it took SIGKILL.

    Args:
        process: What to end; nothing is done for None.
        grace_s: How long it may take after SIGTERM.

    Raises:
        SetupError: it does not end.
    """
    if process is None:
        return False
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        if _gone(process, grace_s):
            return False
        process.kill()
        if not _gone(process, KILL_S):
            raise SetupError(
                f"The gateway (process {process.pid}) does not end, not even by SIGKILL.",
                hint="It waits in the kernel, for a disk or a driver. Look: sudo dmesg",
            )
        return True
    return False


def _gone(process: psutil.Process, wait_s: float) -> bool:
    """Wait until a process has ended; one that only its parent can bury has."""
    deadline = time.monotonic() + wait_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C: half a sweep would leave the other half."""
    before = [signal.signal(number, signal.SIG_IGN) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def sweep(project: Project) -> list[str]:
    """End every engine that no gateway owns any more; return the models of those that ran.

    Raises:
        SetupError: an engine does not end.
    """
    left = sorted(r.model for r in Records(project.state_dir).all() if _runs(r.pid, r.code))
    try:
        asyncio.run(_end_leftovers(project))
    except TimeoutError:
        raise SetupError(
            f"Engines do not end within {SWEEP_S:.0f} s: {', '.join(left) or 'of no known model'}.",
            hint="They wait in the kernel, for a disk or a driver. Look: sudo dmesg",
        ) from None
    return left


def _runs(pid: int, code: int | None) -> bool:
    return code is None and psutil.pid_exists(pid)


async def _end_leftovers(project: Project) -> None:
    runtime = ProcessRuntime(project.state_dir, project.lock_dir)
    try:
        async with asyncio.timeout(SWEEP_S):
            await runtime.survey([])
    finally:
        await runtime.close()
