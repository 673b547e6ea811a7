"""What a launcher executes: the engine's own command line, or that of the company it keeps."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from llm_backend.engines.base import LaunchPlan
from llm_backend.runtimes import helpers
from llm_backend.runtimes.records import EngineRecord


def command_line(plan: LaunchPlan, record: EngineRecord, why_path: Path) -> list[str]:
    """Return the command line of an engine whose ports are chosen.

    Args:
        plan: How it is launched.
        record: This start of it.
        why_path: Where the reason of an end is left, if it has helpers.
    """
    ports = dict(record.helpers)
    blanks = {f"{{{name}.port}}": str(port) for name, port in ports.items()}
    argv = _filled(plan.argv, {**blanks, "{port}": str(record.port)})
    if not plan.helpers:
        return argv
    members = [
        {
            "name": helper.name,
            "argv": _filled(helper.argv, {**blanks, "{port}": str(ports[helper.name])}),
            "cwd": helper.cwd,
            "host": plan.host,
            "port": ports[helper.name],
            "ready_path": helper.ready_path,
            "start_s": helper.start_s,
        }
        for helper in plan.helpers
    ]
    members.append({"name": None, "argv": argv, "cwd": None})
    spec: dict[str, Any] = {
        "members": members,
        "instance": record.instance,
        "why_path": str(why_path),
        "stop_s": plan.stop_s,
    }
    return [sys.executable, "-I", "-S", helpers.__file__, json.dumps(spec)]


def environment(plan: LaunchPlan) -> dict[str, str]:
    """Return the variables of an engine; those of its helpers alone are in one of them."""
    own = {helper.name: dict(helper.env) for helper in plan.helpers if helper.env}
    return {**plan.env, **({helpers.ENVIRONMENTS: json.dumps(own)} if own else {})}


def _filled(words: tuple[str, ...], blanks: Mapping[str, str]) -> list[str]:
    # Not str.format: a command line may hold JSON.
    filled = list(words)
    for blank, value in blanks.items():
        filled = [word.replace(blank, value) for word in filled]
    return filled


def taken(plan: LaunchPlan) -> str | None:
    """Say which of the ports that a plan fixes is taken, and by whom; None where all are free.

    An engine that finds its port taken may end with a line that says nothing, and whoever holds
    the port may answer in its place. Blocks for an instant.
    """
    for whose, port in _fixed_ports(plan):
        family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((plan.host, port))
            except OSError:
                return f"the port {port} of {whose} is taken by {_holder(port)}"
    return None


def _fixed_ports(plan: LaunchPlan) -> Iterator[tuple[str, int]]:
    for helper in plan.helpers:
        if helper.port:
            yield f"its helper {helper.name}", helper.port
    if plan.port:
        yield plan.model, plan.port


def _holder(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.pid and each.laddr[1:] == (port,):
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})"
    return "a process of somebody else"
