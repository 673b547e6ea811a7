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
    with terminal.progress(spec.id) as report:
        return asyncio.run(_load(record, project.state_dir, spec.id, deadline_s, report))


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
        watching = asyncio.create_task(_watch(http, model, report, listening))
        try:
            # First listen, then ask: otherwise the first steps are gone before anyone hears them.
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_S):
                    await listening.wait()
            with plain_transport_errors(record, deadline_s):
                response = await http.post("/api/v1/inference/load", json={"model": model})
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    return answer(response)


async def _watch(
    http: httpx2.AsyncClient, model: str, report: Report, listening: asyncio.Event
) -> None:
    """Report what `GET /events` says of a load; without events there is just no progress."""
    report("waiting for the gateway")
    try:
        with suppress(httpx2.HTTPError, InvalidJSON):
            async with http.stream("GET", "/events") as response:
                async for event in httpx2.EventSource(response):
                    listening.set()
                    _report_event(event.event, decode_object(event.data.encode()), model, report)
    finally:
        listening.set()


def _report_event(kind: str, data: JSONObject, model: str, report: Report) -> None:
    whose = data.get("model")
    if kind == "progress" and whose == model:
        report(str(data.get("text")), data.get("fraction"))
    elif kind == "step" and (words := STEPS.get(str(data.get("step")))):
        report(words if whose == model else f"{words} {whose}")
    elif kind == "state" and data.get("state") == "draining":
        report(f"letting {whose} finish what it works on")
