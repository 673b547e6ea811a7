"""`llm-backend start`: make everything run, and say how to use it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from llm_backend.cli.announce import announce, as_json_object
from llm_backend.cli.bring_up import bring_up
from llm_backend.cli.compose import Stack, stack_of
from llm_backend.cli.control import Control, RunRecord, find_gateway
from llm_backend.cli.download import fetch
from llm_backend.cli.first_model import first_model
from llm_backend.cli.log_sources import Log, gateway_log
from llm_backend.cli.machine import Machine
from llm_backend.cli.options import AsJson, SetupOption, Yes, complete_model
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.setups import choose
from llm_backend.cli.stop import end_all
from llm_backend.cli.switch import load
from llm_backend.cli.take_down import turn
from llm_backend.cli.terminal import Terminal
from llm_backend.config import check, refuse
from llm_backend.config.catalog import ModelSpec
from llm_backend.config.settings import Setup
from llm_backend.errors import AlreadyRunning, LLMBackendError, SetupError

FOREGROUND_PATIENCE_S = 10.0
"""How long running requests may finish after the first Ctrl-C; the second ends them."""
LOOK_S = 0.5


def start(
    setup: SetupOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Id or alias of the first model; without it, choose from a table.",
            autocompletion=complete_model,
        ),
    ] = None,
    yes: Yes = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Give the terminal back once everything runs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring up gateway and first model.

    Prints the URLs and one request to try. Stays in the foreground, follows the gateway's log
    and stops everything on Ctrl-C, unless --detach or --json is given. Where it runs already,
    says so and changes nothing.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project({"setup": setup})
    refuse(check(project.settings, project.catalog))
    ask = terminal.interactive and not yes and model is None
    with _signals_as_ctrl_c():
        Start(terminal, project, model, ask=ask, stays=not detach and not as_json).run()


@dataclass(frozen=True, slots=True)
class Start:
    """One start, from nothing to a model that answers.

    Attributes:
        terminal: Where to write.
        project: What to start.
        model: The model that was named; None where none was.
        ask: Whether the person may be asked for one.
        stays: Whether it stays in the foreground.
    """

    terminal: Terminal
    project: Project
    model: str | None
    ask: bool
    stays: bool

    def run(self) -> None:
        """Start what does not run yet.

        Raises:
            SetupError: it cannot run here, or the gateway did not come up.
            LLMBackendError: the gateway runs, its first model does not.
            KeyboardInterrupt: Ctrl-C, after everything has been ended.
        """
        record = find_gateway(self.project.state_dir)
        if record is not None:
            self._say_already_runs(record)
            return
        self._start(*self.prepare())

    def prepare(self) -> tuple[Setup, ModelSpec]:
        """Return set-up and first model, once its weights are here.

        Raises:
            SetupError: nothing can run here, or the weights could not be fetched.
            ModelNotFound: the catalog has not the model named, or it cannot run here.
        """
        machine = Machine(self.project)
        choice = choose(self.project.settings.setup, self.project.root, lambda: machine.gpus)
        self.terminal.say(f"Set-up: {choice.setup} ({choice.reason.rstrip('.')}).")
        offers = machine.offers(choice.setup)
        spec = first_model(self.project, offers, self.model, ask=self.ask)
        if not offers[spec.id].downloaded:
            fetch(self.terminal, self.project, spec)
        return choice.setup, spec

    def _start(self, setup: Setup, spec: ModelSpec) -> None:
        """Bring everything up and stay where we should; Ctrl-C at any moment ends it all again."""
        ours = False
        try:
            with turn(self.project.state_dir):
                record = find_gateway(self.project.state_dir)
                if record is not None:
                    self._say_already_runs(record)
                    return
                ours = True
                record = self.bring_up(setup)
            self.terminal.say(f"The gateway runs ({record.where}).")
            self._go_on(record, spec)
        except KeyboardInterrupt:
            if ours:
                self._end_all()
            raise

    def _end_all(self) -> None:
        """End what we started, and the engine of an earlier gateway that ours has taken over."""
        self.terminal.note("\nStopping. Ctrl-C again: without waiting for running requests.")
        with turn(self.project.state_dir):
            end_all(self.terminal, self.project, FOREGROUND_PATIENCE_S)

    def bring_up(self, setup: Setup) -> RunRecord:
        """Start the gateway and wait until it answers; whoever calls has the `turn`."""
        with self.terminal.progress("gateway") as report:
            if setup == "compose":
                return Stack(self.project).up(report)
            self._refuse_beside_containers()
            return bring_up(self.project, setup, report)

    def _refuse_beside_containers(self) -> None:
        """Refuse a local gateway while an engine in a container may have the device."""
        stack = stack_of(self.project)
        running = stack.running() if stack else None
        if running:
            raise AlreadyRunning(
                f"Containers of the compose set-up still run: {', '.join(sorted(running))}.",
                hint="Type: llm-backend stop",
            )

    def _go_on(self, record: RunRecord, spec: ModelSpec) -> None:
        """Load the model; in the foreground stay until Ctrl-C."""
        awake = self._load(record, spec)
        if self.terminal.as_json:
            model = awake.id if awake else None
            self.terminal.result(as_json_object(record, model, already=False))
        else:
            announce(self.terminal, self.project, record, awake or spec)
        if self.stays:
            self._follow(record)

    def _load(self, record: RunRecord, spec: ModelSpec) -> ModelSpec | None:
        """Have the first model loaded and return it; None where it failed and we stay."""
        kept = self._kept(record)
        try:
            load(self.terminal, self.project, record, kept or spec)
        except LLMBackendError as error:
            self.terminal.note("The gateway runs, this model does not. Others: llm-backend models")
            if not self.stays:
                raise
            self.terminal.error(error)
            return None
        return kept or spec

    def _kept(self, record: RunRecord) -> ModelSpec | None:
        """Return the model that the gateway keeps or brings back after a crash, unless we chose."""
        if self.model is not None or self.ask:
            return None
        with Control(record, self.project.state_dir) as control:
            status = control.status()
        name = (status.get("switch") or {}).get("to") or status.get("model")
        return self.project.catalog.find(name) if name else None

    def _say_already_runs(self, record: RunRecord) -> None:
        wanted = self.project.settings.setup
        if wanted not in {"auto", record.setup}:
            raise AlreadyRunning(
                f"A gateway of the set-up {record.setup} runs ({record.where}), and one of the "
                f"set-up {wanted} is asked for.",
                hint=f"Type: llm-backend stop, then: llm-backend start --setup {wanted}",
            )
        with Control(record, self.project.state_dir) as control:
            awake = control.status().get("model")
        if self.terminal.as_json:
            self.terminal.result(as_json_object(record, awake, already=True))
            return
        shown = awake or "no model"
        self.terminal.say(f"It runs already ({record.where}); awake: {shown}.")
        spec = self.project.model(self.model) if self.model else None
        if spec is not None and spec.id != awake:
            self.terminal.say(f"To change the model: llm-backend switch {spec.id}")
        announce(self.terminal, self.project, record, self.project.catalog.find(awake or ""))

    def _follow(self, record: RunRecord) -> None:
        self.terminal.say("Ctrl-C stops everything. The gateway's log from here:")
        log = gateway_log(self.project, record)
        asyncio.run(_print_log(log, record))
        raise SetupError(
            f"The gateway ({record.where}) has ended.",
            hint="Its log: llm-backend logs gateway",
            log_tail=log.tail(15),
        )


async def _print_log(log: Log, record: RunRecord) -> None:
    """Print the log of the gateway until it has ended."""
    printing = asyncio.create_task(_print_lines(log))
    try:
        while not _has_ended(record, printing):  # noqa: ASYNC110  # its end raises no event here
            await asyncio.sleep(LOOK_S)
    finally:
        printing.cancel()
        await asyncio.wait({printing})  # a follower of a container has a process to bury


def _has_ended(record: RunRecord, printing: asyncio.Task[None]) -> bool:
    # Docker ends the log of a container with it.
    return printing.done() if record.in_container else record.process is None


async def _print_lines(log: Log) -> None:
    async for line in log.follow(0):
        print(line, flush=True)


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, stop what Ctrl-C stops."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
