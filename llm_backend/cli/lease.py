"""`llm-backend lease`: a device for another program, such as ComfyUI, a game or a training run."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_backend.cli.control import Control, require_gateway
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal, duration, mib
from llm_backend.wire import JSONObject

HEADINGS = ("ID", "DEVICE", "MEMORY", "FOR", "LEFT")

SLACK_S = 60.0
"""How much longer than the drain and the stop of an engine the answer may take."""


def take(
    reason: Annotated[str, typer.Argument(help="What the device is for.")],
    ttl: Annotated[float, typer.Option(help="For how many minutes.", metavar="MINUTES")] = 60.0,
    memory: Annotated[
        int | None,
        typer.Option("--mib", help="How much to have free; by default all of it.", metavar="MIB"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Which device, by its name in the catalog.", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Free a device of engines, and wait until its memory is free.

    Running requests are waited for. The model that had to leave comes back when the lease is given
    back or its time is over.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    wish: JSONObject = {"reason": reason, "ttl_s": ttl * 60, "mib": memory, "device": device}
    settings = project.settings
    patience_s = settings.switching.drain_timeout_s or settings.limits.request_timeout_s
    with Control(require_gateway(project.state_dir), project.state_dir) as control:
        lease = control.take_lease(wish, patience_s + SLACK_S)
    if as_json:
        terminal.result(lease)
        return
    terminal.say(f"{_what(lease)} is yours for {duration(lease['expires_in_s'])}.")
    if lease.get("note"):
        terminal.note(lease["note"], style="yellow")
    terminal.say(f"Give it back: llm-backend lease give {lease['id']}")


def give(
    ident: Annotated[str, typer.Argument(help="Id of the lease.", metavar="ID")],
    as_json: AsJson = False,
) -> None:
    """Give a device back before its time; the model that had to leave comes back."""
    terminal = Terminal(as_json=as_json)
    project = open_project()
    with Control(require_gateway(project.state_dir), project.state_dir) as control:
        body = control.give_lease(ident)
    if as_json:
        terminal.result(body)
    else:
        terminal.say("The device is given back.")


def leases(as_json: AsJson = False) -> None:
    """Show the devices that other programs have."""
    terminal = Terminal(as_json=as_json)
    project = open_project()
    with Control(require_gateway(project.state_dir), project.state_dir) as control:
        body = control.leases()
    if as_json:
        terminal.result(body)
    elif body["leases"]:
        terminal.table(HEADINGS, [_row(lease) for lease in body["leases"]])
    else:
        terminal.say("No device is leased.")


def _what(lease: JSONObject) -> str:
    held = "All of" if lease["mib"] is None else f"{mib(lease['mib'])} of"
    return f"{held} {lease['device']}"


def _row(lease: JSONObject) -> tuple[str, ...]:
    memory = "all" if lease["mib"] is None else mib(lease["mib"])
    left = duration(lease["expires_in_s"])
    return (lease["id"], lease["device"], memory, lease["reason"], left)
