"""`llm-backend models`: what the catalog has, and what of it can run here."""

from __future__ import annotations

from llm_backend.cli.control import Control, find_gateway
from llm_backend.cli.machine import Machine, Offer
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.setups import RUNTIMES, Choice, choose
from llm_backend.cli.terminal import Terminal, mib, yes_no
from llm_backend.config.settings import Setup
from llm_backend.errors import LLMBackendError

HEADINGS = ("MODEL", "FOR", "SIZE", "RUNTIME", "FITS", "DOWNLOADED", "STATE")


def models(as_json: AsJson = False) -> None:
    """List the models and what can run here.

    What each is for, its size, whether its devices have room for it, whether its weights are
    here, and its state.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    machine = Machine(project)
    choice = present_setup(project, machine)
    offers = machine.offers(choice.setup)
    states = residencies(project)
    if as_json:
        listed = [
            {**o.as_json(), "residency": states.get(o.id, "stopped")} for o in offers.values()
        ]
        terminal.result(
            {"setup": choice.setup, "default": list(project.catalog.default), "models": listed}
        )
        return
    terminal.table(HEADINGS, [_row(offer, states) for offer in offers.values()])
    _explain(terminal, list(offers.values()), choice.setup)


def _row(offer: Offer, states: dict[str, str]) -> tuple[str, ...]:
    return (
        offer.id,
        offer.purpose,
        "?" if offer.size_mib is None else mib(offer.size_mib),
        ", ".join(offer.runtimes),
        yes_no(offer.fits),
        yes_no(offer.downloaded),
        states.get(offer.id, "stopped"),
    )


def _explain(terminal: Terminal, offers: list[Offer], setup: Setup) -> None:
    """Say why models cannot run here, and what brings the missing weights."""
    hindered = [offer for offer in offers if offer.obstacle is not None]
    if hindered:
        terminal.say()
        terminal.say(f"Cannot run here, in the set-up {setup}:")
        for offer in hindered:
            terminal.say(f"  {offer.id}: {offer.obstacle}")
    absent = [o.id for o in offers if o.obstacle is None and not o.downloaded]
    if absent:
        terminal.say()
        terminal.say(f"To fetch weights: llm-backend download {absent[0]}")


def present_setup(project: Project, machine: Machine) -> Choice:
    """Return the set-up of the running gateway, else the one that a start would choose.

    Raises:
        SetupError: the settings demand compose and it cannot run here.
    """
    record = find_gateway(project.state_dir)
    ran = next((setup for setup in RUNTIMES if record and setup == record.setup), None)
    if ran is not None:
        return Choice(ran, "it runs")
    return choose(project.settings.setup, project.root, lambda: machine.gpus)


def residencies(project: Project) -> dict[str, str]:
    """Return the state of each model that the running gateway knows; empty where none answers."""
    record = find_gateway(project.state_dir)
    if record is None:
        return {}
    try:
        with Control(record, project.state_dir) as control:
            listed = control.status().get("models", [])
    except LLMBackendError:
        return {}
    return {entry["id"]: entry["state"] for entry in listed}
