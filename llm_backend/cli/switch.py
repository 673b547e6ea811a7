"""`llm-backend switch`: make another model the awake one, and watch it come."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from llm_backend.cli.control import (
    ANSWER_S,
    RunRecord,
    admin_headers,
    answer,
    plain_transport_errors,
    require_gateway,
)
from llm_backend.cli.machine import Machine
from llm_backend.cli.models import present_setup
from llm_backend.cli.options import AsJson, complete_model
from llm_backend.cli.picker import pick
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.terminal import Report, Terminal
from llm_backend.config.catalog import ModelSpec
from llm_backend.config.settings import Settings
from llm_backend.errors import InvalidJSON, ModelNotFound, SetupError
from llm_backend.wire import JSONObject, decode_object

STEPS = {
    "adopt": "taking over the running engine",
    "stop": "ending",
    "memory": "waiting for free memory",
    "launch": "launching the engine",
    "load": "loading",
    "warm_up": "warming up",
}
"""The steps of a switch as people say them; those of the gateway that are left out are instants."""

LISTEN_S = 5.0
"""How long the first event of a gateway may take before the switch is asked for all the same."""

PACE_S = 1.0
"""How often the gateway is asked how long a switch takes yet."""

NEARLY = 0.99
"""How full a bar is while a load takes longer than expected."""

MARGIN_S = 60.0
"""What a switch may take on top of the deadlines of its steps."""


def switch(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help="Id or alias of the model; without it, choose from a table.",
            autocompletion=complete_model,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make another model the awake one.

    Running requests finish first. Shows how far it is, and returns when the model is awake.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    record = require_gateway(project.state_dir)
    spec = _loadable(project, model or _choose(terminal, project))
    body = load(terminal, project, record, spec)
    if as_json:
        terminal.result(body)
        return
    terminal.say(f"{body.get('model', spec.id)} is awake ({body.get('seconds', 0):.1f} s).")


def _loadable(project: Project, name: str) -> ModelSpec:
    """Return a model, refusing one whose engine cannot start before another one is ended for it."""
    spec = project.model(name)
    machine = Machine(project)
    offer = machine.offer(spec, present_setup(project, machine).setup)
    if offer.obstacle is not None:
        raise ModelNotFound(
            f"{spec.id} cannot run here: {offer.obstacle}", hint="What can: llm-backend models"
        )
    if not offer.downloaded:
        raise SetupError(
            f"The weights of {spec.id} are not here.", hint=f"Type: llm-backend download {spec.id}"
        )
    return spec


def _choose(terminal: Terminal, project: Project) -> str:
    if not terminal.interactive:
        raise SetupError(
            "No model is named, and nobody is there to ask.",
            hint=f"Type one of these: llm-backend switch {{{'|'.join(project.catalog.models)}}}",
        )
    machine = Machine(project)
    offers = machine.offers(present_setup(project, machine).setup)
    able = [offer.id for offer in offers.values() if offer.obstacle is None]
    if not able:
        raise SetupError("No model can run here.", hint="See why: llm-backend doctor")
    preselected = next((model for model in project.catalog.default if model in able), able[0])
    return pick("Which model?", offers.values(), preselected)


def load(terminal: Terminal, project: Project, record: RunRecord, spec: ModelSpec) -> JSONObject:
    """Have the gateway load a model, showing how far it is; return its answer.

    Raises:
        LLMBackendError: it could not be loaded; says why.
        ConnectionFailed: the gateway does not answer.
    """
    deadline_s = switch_deadline_s(project.settings, spec)
    return load_named(terminal, project, record, spec.id, deadline_s)


def load_named(
    terminal: Terminal, project: Project, record: RunRecord, model: str, deadline_s: float
) -> JSONObject:
    """Have the gateway load a model that this catalog may not have; as `load` does."""
    with terminal.progress(model) as report:
        return asyncio.run(_load(record, project.state_dir, model, deadline_s, report))


def switch_deadline_s(settings: Settings, spec: ModelSpec) -> float:
    """Return the longest time that a switch may take, in seconds: that of all its steps."""
    drain_s = settings.switching.drain_timeout_s or settings.limits.request_timeout_s
    times = spec.timeouts
    return drain_s + times.stop_s + times.memory_s + times.start_s + MARGIN_S


async def _load(
    record: RunRecord, state_dir: Path, model: str, deadline_s: float, report: Report
) -> JSONObject:
    timeout = httpx2.Timeout(ANSWER_S, read=deadline_s)
    headers = admin_headers(state_dir)
    async with httpx2.AsyncClient(
        base_url=record.url, headers=headers, timeout=timeout, trust_env=False
    ) as http:
        listening = asyncio.Event()
        bar = LoadBar(report)
        watching = asyncio.create_task(_watch(http, model, bar, listening))
        pacing = asyncio.create_task(_keep_pace(http, model, bar))
        try:
            # First listen, then ask: otherwise the first steps are gone before anyone hears them.
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_S):
                    await listening.wait()
            with plain_transport_errors(record, deadline_s):
                response = await http.post("/api/v1/inference/load", json={"model": model})
        finally:
            for task in (watching, pacing):
                task.cancel()
            await asyncio.wait({watching, pacing})
    return answer(response)


class LoadBar:
    """What is shown of a load: its step, and how much of the expected time is over.

    Where nobody knows how long it takes, the bar shows what the engine says of itself.

    Args:
        report: Shows it.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._text = ""
        self._told: float | None = None
        self._share: float | None = None

    def say(self, text: str, fraction: float | None = None) -> None:
        """Show another step, and how far the engine says that it is."""
        self._text, self._told = text, fraction
        self._show()

    def pace(self, elapsed_s: float, left_s: float) -> None:
        """Show how much of the time is over; a bar never goes back, nor is full too early."""
        share = min(elapsed_s / max(elapsed_s + left_s, 0.1), NEARLY)
        self._share = max(share, self._share or 0.0)
        self._show()

    def _show(self) -> None:
        self._report(self._text, self._told if self._share is None else self._share)


async def _keep_pace(http: httpx2.AsyncClient, model: str, bar: LoadBar) -> None:
    """Move the bar by what the gateway expects; without an answer it just stands."""
    began = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(PACE_S)
        with suppress(httpx2.HTTPError, InvalidJSON):
            status = decode_object((await http.get("/status")).content)
            left_s = _left_s(status.get("switch"), model)
            if left_s is not None:
                bar.pace(asyncio.get_running_loop().time() - began, left_s)


def _left_s(switch: object, model: str) -> float | None:
    """Return the seconds that a switch to this model will take yet, where that is known."""
    if not isinstance(switch, dict) or switch.get("to") != model:
        return None
    left_s = switch.get("estimate_s")
    return float(left_s) if isinstance(left_s, int | float) else None


async def _watch(
    http: httpx2.AsyncClient, model: str, bar: LoadBar, listening: asyncio.Event
) -> None:
    """Show what `GET /events` says of a load; without events there is just no progress."""
    bar.say("waiting for the gateway")
    try:
        with suppress(httpx2.HTTPError, InvalidJSON):
            async with http.stream("GET", "/events") as response:
                async for event in httpx2.EventSource(response):
                    listening.set()
                    _report_event(event.event, decode_object(event.data.encode()), model, bar)
    finally:
        listening.set()


def _report_event(kind: str, data: JSONObject, model: str, bar: LoadBar) -> None:
    whose = data.get("model")
    if kind == "progress" and whose == model:
        bar.say(str(data.get("text")), data.get("fraction"))
    elif kind == "step" and (words := STEPS.get(str(data.get("step")))):
        bar.say(words if whose == model else f"{words} {whose}")
    elif kind == "state" and data.get("state") == "draining":
        bar.say(f"letting {whose} finish what it works on")
