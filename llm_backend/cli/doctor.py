"""`llm-backend doctor`: what this machine can run, why not the rest, and what to type next."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import httpx2
import psutil
import typer

from llm_backend.cli.control import find_gateway
from llm_backend.cli.engine_checks import attention_check, fits, start_check
from llm_backend.cli.machine import Machine, Offer
from llm_backend.cli.models import present_setup
from llm_backend.cli.options import AsJson
from llm_backend.cli.ports import port_holder, port_is_free
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.setups import Check, Choice, compose_checks
from llm_backend.cli.terminal import Terminal, mib
from llm_backend.engines.llamacpp import unavailable_reason
from llm_backend.errors import SetupError

HUB_S = 5.0
_MIB = 1024 * 1024


def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run, and what it lacks.

    And what to type next. Exits with 0 where at least one model can run here, else with 1.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    machine = Machine(project)
    choice, offers = _offers(project, machine)
    checks = list(_checks(project, machine, choice))
    if as_json:
        terminal.result(
            {
                "checks": [asdict(check) for check in checks],
                "setup": choice.setup,
                "reason": choice.reason,
                "models": [offer.as_json() for offer in offers],
            }
        )
    else:
        _show(terminal, checks, choice, offers)
    raise typer.Exit(0 if any(offer.obstacle is None for offer in offers) else 1)


def _offers(project: Project, machine: Machine) -> tuple[Choice, list[Offer]]:
    """Return the set-up and its models; none where the settings demand one that cannot run."""
    try:
        choice = present_setup(project, machine)
    except SetupError as error:
        return Choice("compose", error.message), []
    return choice, list(machine.offers(choice.setup).values())


def _checks(project: Project, machine: Machine, choice: Choice) -> Iterator[Check]:
    yield _python()
    yield _llamacpp()
    yield from compose_checks(project.root, lambda: machine.gpus)
    yield _memory()
    yield _disk(project.models_dir)
    if choice.setup == "compose":
        yield start_check(project)
    else:
        yield _port(project)
    yield _hub()
    if choice.setup == "compose":
        yield attention_check(project)
        yield from fits(project, machine)


def _python() -> Check:
    inside = sys.prefix != sys.base_prefix
    where = f"in the virtual environment {sys.prefix}" if inside else f"at {sys.executable}"
    return Check("python", ok=True, detail=f"{platform.python_version()} {where}")


def _llamacpp() -> Check:
    reason = unavailable_reason()
    if reason is not None:
        return Check("llama.cpp", ok=False, detail=reason)
    version = importlib.metadata.version("xllamacpp")
    return Check("llama.cpp", ok=True, detail=f"xllamacpp {version}")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    free, total = mib(memory.available // _MIB), mib(memory.total // _MIB)
    return Check("memory", ok=True, detail=f"{free} of {total} free")


def _disk(models_dir: Path) -> Check:
    place = next(path for path in (models_dir, *models_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free // _MIB
    return Check("disk", ok=True, detail=f"{mib(free)} free for weights in {models_dir}")


def _port(project: Project) -> Check:
    server, record = project.settings.server, find_gateway(project.state_dir)
    name = f"port {server.port}"
    if record is not None:
        return Check(name, ok=True, detail=f"the gateway ({record.where}) is at {record.url}")
    if port_is_free(server.host, server.port):
        return Check(name, ok=True, detail="free")
    return Check(
        name,
        ok=False,
        detail=f"taken by {port_holder(server.port)}.",
        next="End that program, or type: LLM_SERVER__PORT=7001 llm-backend start",
    )


def _hub() -> Check:
    from huggingface_hub import constants  # noqa: PLC0415  # costs half a second elsewhere

    try:
        httpx2.head(constants.ENDPOINT, timeout=HUB_S)
    except httpx2.HTTPError as error:
        return Check(
            "model hub",
            ok=False,
            detail=f"{constants.ENDPOINT} cannot be reached: {error}.",
            next="Behind a proxy set HTTPS_PROXY; for another hub set HF_ENDPOINT. "
            "Models whose weights are here run without it.",
        )
    return Check("model hub", ok=True, detail=f"{constants.ENDPOINT} answers")


def _show(terminal: Terminal, checks: list[Check], choice: Choice, offers: list[Offer]) -> None:
    for check in checks:
        mark, style = ("ok", "green") if check.ok else ("--", "yellow")
        terminal.say(f"{mark}  {check.name}: {check.detail}", style="" if check.ok else style)
        if check.next:
            terminal.say(f"      {check.next}")
    terminal.say()
    terminal.say(f"Set-up: {choice.setup} ({choice.reason.rstrip('.')}).")
    for offer in offers:
        terminal.say(f"  {offer.id}: {verdict(offer)}")
    terminal.say()
    terminal.say(_next(offers))


def verdict(offer: Offer) -> str:
    """Say in a sentence whether a model can run here."""
    if offer.obstacle is not None:
        return f"cannot run here: {offer.obstacle}"
    if offer.downloaded:
        return "ready."
    return f"can run here once its weights are: llm-backend download {offer.id}"


def _next(offers: list[Offer]) -> str:
    if any(offer.ready for offer in offers):
        return "Next: llm-backend start"
    absent = [offer.id for offer in offers if offer.obstacle is None]
    if absent:
        return f"Next: llm-backend download {absent[0]}"
    return "No model can run here. Correct the first line above that does not begin with ok."
