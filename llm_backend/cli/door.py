"""The gateway that a command asks: one that runs, else one of its own for as long as it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from llm_backend.cli.control import RunRecord, admin_key, find_gateway, require_gateway
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.start import Start
from llm_backend.cli.switch import load
from llm_backend.cli.take_down import take_down, turn
from llm_backend.cli.terminal import Terminal
from llm_backend.client import LLMClient
from llm_backend.config.settings import Setup
from llm_backend.errors import AlreadyRunning

RETRIES = 2
PATIENCE_S = 10.0
"""How long requests of others may finish when a gateway of our own is ended."""


@dataclass(frozen=True, slots=True)
class Door:
    """The way to a gateway, looked for anew each time: one that comes back may be elsewhere.

    Attributes:
        project: Whose gateway it is.
    """

    project: Project

    @property
    def is_remote(self) -> bool:
        """Whether LLM_BASE_URL names a gateway, which then need not be ours."""
        return bool(os.environ.get("LLM_BASE_URL"))

    @property
    def record(self) -> RunRecord:
        """The gateway of this project.

        Raises:
            ConnectionFailed: it does not run.
        """
        return require_gateway(self.project.state_dir)

    def client(self, *, repeats: bool = True) -> LLMClient:
        """Return a client of the gateway.

        Its key is LLM_API_KEY, else the admin key of this project.

        Args:
            repeats: Whether it sends again what could not be answered.

        Raises:
            ConnectionFailed: no gateway runs.
        """
        times = RETRIES if repeats else 0
        if self.is_remote:
            return LLMClient(max_retries=times)
        key = os.environ.get("LLM_API_KEY") or admin_key(self.project.state_dir)
        return LLMClient(self.record.url, key, max_retries=times)


@contextmanager
def door(terminal: Terminal, project: Project, model: str | None) -> Iterator[Door]:
    """Yield the way to a gateway.

    Where none runs, one is started and the model loaded, as `llm-backend start` does it; both are
    ended again on leaving, Ctrl-C, SIGTERM and the end of the terminal included.

    Args:
        terminal: Told, on standard error, what is being done.
        project: Whose gateway.
        model: What to load where nothing runs; by default what `start` would load.

    Raises:
        SetupError: nothing runs and it cannot be started.
        LLMBackendError: the model could not be loaded.
    """
    way = Door(project)
    with signals_as_exit():
        if way.is_remote or find_gateway(project.state_dir) is not None:
            yield way
            return
        with _own_gateway(terminal, project, model):
            yield way


@contextmanager
def _own_gateway(terminal: Terminal, project: Project, model: str | None) -> Iterator[None]:
    # What a start says is no result of this command.
    quiet = Terminal(as_json=True)
    start = Start(quiet, project, model, ask=False, stays=False)
    setup, spec = start.prepare()
    if setup != "compose":
        # On any port: others look for it in its record, and the usual one may be taken.
        own = open_project({"setup": setup, "server.port": 0})
        start = replace(start, project=own)
    with ExitStack() as stack:
        with turn(project.state_dir):
            ours = find_gateway(project.state_dir) is None
            if ours:
                stack.callback(_end, terminal, project)
                _bring_up(start, setup, stack)
        if ours:
            load(terminal, project, require_gateway(project.state_dir), spec)
        yield


def _bring_up(start: Start, setup: Setup, cleanup: ExitStack) -> None:
    try:
        start.bring_up(setup)
    except AlreadyRunning:
        cleanup.pop_all()  # the gateway that is there is somebody else's
        raise


def _end(terminal: Terminal, project: Project) -> None:
    """End the gateway and its engine, whatever interrupts: then with less patience."""
    patience_s, ended = PATIENCE_S, False
    while not ended:
        try:
            with turn(project.state_dir), terminal.progress("stopping") as report:
                take_down(project, patience_s, report)
            ended = True
        except (KeyboardInterrupt, SystemExit):
            patience_s = 0.0


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, leave through every `finally`.

    What is ignored stays so: `nohup` wants a command to outlive its terminal.
    """
    both = (signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, _exit) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
