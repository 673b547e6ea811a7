"""`llm-backend config`: whether settings and catalog are right, and where values come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llm_backend.cli.engine_checks import RECREATE, option_problems, stale_containers
from llm_backend.cli.options import AsJson
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.terminal import Terminal
from llm_backend.config import Explained, Problem, explain, refuse
from llm_backend.config import check as find_problems


def check(
    all_settings: Annotated[
        bool, typer.Option("--all", help="Show the settings that have their defaults, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings and catalog, and show which values hold and where they come from.

    In the compose set-up also whether the engines' containers are as they would be made now.
    Exits with 1 where one has to be made anew.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    problems = [*find_problems(project.settings, project.catalog), *option_problems(project)]
    refuse(problems)
    stale = stale_containers(project)
    settings = explain(project.settings)
    if as_json:
        terminal.result({**_as_json(project, settings, problems), "stale_containers": stale})
        raise typer.Exit(1 if stale else 0)
    for problem in problems:
        terminal.say(f"Warning: {problem}", style="yellow")
    _show_settings(terminal, settings, all_settings=all_settings)
    terminal.say()
    count = len(project.catalog.models)
    terminal.say(f"Settings and catalog are right: {count} models in {project.settings.catalog}.")
    if stale:
        _show_stale(terminal, stale)
        raise typer.Exit(1)


def _show_stale(terminal: Terminal, stale: dict[str, str]) -> None:
    terminal.say()
    for container, reason in stale.items():
        terminal.say(f"The container {container} has to be made anew: {reason}.", style="yellow")
    terminal.say(f"Type: {RECREATE}")


def _show_settings(terminal: Terminal, settings: list[Explained], *, all_settings: bool) -> None:
    shown = [s for s in settings if all_settings or s.value != s.default]
    if not shown:
        terminal.say("Every setting has its default. See them: llm-backend config check --all")
        return
    rows = [(s.key, _value(s), s.origin.where) for s in shown]
    terminal.table(("SETTING", "VALUE", "FROM"), rows)


def _value(setting: Explained) -> str:
    if setting.value is None:
        return "none"
    return f"{setting.value} {setting.unit}".strip()


def _as_json(
    project: Project, settings: list[Explained], problems: list[Problem]
) -> dict[str, object]:
    return {
        "root": project.root,
        "catalog": project.settings.catalog,
        "models": list(project.catalog.models),
        "warnings": [str(problem) for problem in problems],
        "settings": [asdict(setting) for setting in settings],
    }
