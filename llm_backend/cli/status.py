"""`llm-backend status`: what runs, and how it does."""

from __future__ import annotations

from dataclasses import asdict

import typer

from llm_backend.cli.control import Control, RunRecord, require_gateway
from llm_backend.cli.engine_checks import attention_in_force
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal, duration, mib
from llm_backend.engines.vllm_attention import Attention
from llm_backend.wire import JSONObject

HEADINGS = ("MODEL", "STATE", "RUNNING", "WAITING", "NOTE")


def status(as_json: AsJson = False) -> None:
    """Show what runs and how it does.

    The gateway, its devices, its cache, the running switch and every model. Exits with 0 where
    all is well, 1 where something is degraded, 69 where no gateway runs.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    record = require_gateway(project.state_dir)
    with Control(record, project.state_dir) as control:
        health, state = control.health(), control.status()
        attention = attention_in_force(project, control, state.get("model"))
    if as_json:
        terminal.result(
            {
                "running": True,
                "url": record.url,
                "health": health,
                "status": state,
                "attention": attention and asdict(attention),
            }
        )
    else:
        _show(terminal, record, health, state, attention)
    raise typer.Exit(0 if health.get("status") == "ok" else 1)


def _show(
    terminal: Terminal,
    record: RunRecord,
    health: JSONObject,
    state: JSONObject,
    attention: Attention | None,
) -> None:
    style = "green" if health.get("status") == "ok" else "yellow"
    terminal.say(f"Health   {health.get('status')}", style=style)
    for name, text in (
        ("Gateway", _gateway(record, state)),
        ("Awake", state.get("model") or "no model"),
        ("Switch", _switch(state.get("switch"))),
        ("Queue", _queue(state.get("queue", {}))),
        ("Cache", _cache(health.get("cache", {}))),
        ("Leased", "; ".join(map(_leased, state.get("leases", [])))),
        ("Backends", f"attention: {attention}" if attention else ""),
        *((f"{name}", _device(device)) for name, device in health.get("devices", {}).items()),
        *((name, "its memory cannot be read") for name in health.get("unwatched_devices", [])),
    ):
        if text:
            terminal.say(f"{name:<8} {text}")
    terminal.say()
    terminal.table(HEADINGS, [_row(model) for model in state.get("models", [])])


def _gateway(record: RunRecord, state: JSONObject) -> str:
    up = duration(state.get("uptime_s", 0))
    what = f"version {record.version}, set-up {record.setup}"
    return f"{record.url}, {what}, up {up}, {record.where}"


def _switch(switch: JSONObject | None) -> str | None:
    if not switch:
        return None
    progress = switch.get("progress") or {}
    parts = [
        f"to {switch.get('to')}",
        progress.get("text") or switch.get("step"),
        f"for {duration(switch.get('elapsed_s') or 0)}",
    ]
    if switch.get("estimate_s") is not None:
        parts.append(f"about {duration(switch['estimate_s'])} left")
    return ", ".join(part for part in parts if part)


def _queue(queue: JSONObject) -> str | None:
    if not queue.get("length"):
        return None
    whose = ", ".join(f"{count} for {model}" for model, count in queue.get("by_model", {}).items())
    return f"{queue['length']} of {queue.get('limit')} ({whose})"


def _cache(cache: JSONObject) -> str:
    known = [f"{name} {value}" for name, value in cache.items() if name != "status"]
    return ", ".join([str(cache.get("status", "")), *known])


def _device(device: JSONObject) -> str:
    return f"{device['name']}, {mib(device['free_mib'])} of {mib(device['total_mib'])} free"


def _leased(lease: JSONObject) -> str:
    held = "all" if lease["mib"] is None else mib(lease["mib"])
    left = duration(lease["expires_in_s"])
    return f"{held} of {lease['device']} for {left} more: {lease['reason']} ({lease['id']})"


def _row(model: JSONObject) -> tuple[str, ...]:
    note = model.get("reason") or model.get("unavailable_reason") or ""
    state = model["state"] if model.get("available", True) else "not here"
    return (model["id"], state, str(model["inflight"]), str(model["waiting"]), note)
