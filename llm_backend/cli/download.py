"""`llm-backend download`: bring weights from the model hub."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_backend.cli.machine import Machine, Offer
from llm_backend.cli.models import present_setup
from llm_backend.cli.options import AsJson, complete_model
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.terminal import Terminal, duration, mib
from llm_backend.config.catalog import HubWeights, ModelSpec
from llm_backend.errors import SetupError
from llm_backend.weights.store import Store

_MIB = 1024 * 1024


def download(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID",
            help="Ids or aliases; without any, choose from a list.",
            autocompletion=complete_model,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring weights from the model hub.

    Pinned to a revision, resumed where they were cut, verified, and only where they fit the disk.
    """
    terminal = Terminal(as_json=as_json)
    project = open_project()
    specs = [project.model(name) for name in models or _choose(terminal, project)]
    done = {spec.id: fetch(terminal, project, spec) for spec in specs}
    if as_json:
        terminal.result({"models": [{"id": model, "path": path} for model, path in done.items()]})


def _choose(terminal: Terminal, project: Project) -> list[str]:
    machine = Machine(project)
    offers = machine.offers(present_setup(project, machine).setup).values()
    absent = [offer for offer in offers if offer.fetchable and not offer.downloaded]
    able = [offer for offer in absent if offer.obstacle is None]
    if not able:
        raise SetupError(
            "Nothing is left to download for the models that can run here.",
            hint="See them: llm-backend models",
        )
    if not terminal.interactive:
        raise SetupError(
            "No model is named, and nobody is there to ask.",
            hint=f"Type, for example: llm-backend download {able[0].id}",
        )
    return _ask(able)


def _ask(offers: list[Offer]) -> list[str]:
    import questionary  # noqa: PLC0415  # costs half a second, and hardly anybody is asked

    choices = [
        questionary.Choice(f"{offer.id} ({_size(offer)}) {offer.purpose}", value=offer.id)
        for offer in offers
    ]
    chosen: list[str] = questionary.checkbox(
        "Which models?", choices=choices, instruction="(Space to mark, Enter to go)"
    ).unsafe_ask()
    if not chosen:
        raise SetupError("No model was marked.", hint="Mark with Space, then press Enter.")
    return chosen


def _size(offer: Offer) -> str:
    return "size unknown" if offer.size_mib is None else mib(offer.size_mib)


def fetch(terminal: Terminal, project: Project, spec: ModelSpec) -> str:
    """Bring the weights of one model here and return where they are; at once if they are.

    Raises:
        DownloadError: they could not be fetched or verified; what came in is kept.
        SetupError: they are no weights that can be fetched.
    """
    store = Store(project.models_dir)
    here = None if spec.weights is None else store.locate(spec.weights)
    if here is not None:
        terminal.say(f"{spec.id}: already here, {here}")
        return str(here)
    if not isinstance(spec.weights, HubWeights):
        raise _not_on_the_hub(spec, store)
    try:
        path = bring(terminal, spec.id, spec.weights, store)
    except KeyboardInterrupt:
        terminal.note(f"What came in is kept. To go on: llm-backend download {spec.id}")
        raise
    terminal.say(f"{spec.id}: downloaded and verified, {path}")
    return path


def bring(terminal: Terminal, title: str, weights: HubWeights, store: Store) -> str:
    """Fetch weights from the hub, with a bar, and return where they are; at once if they are.

    Raises:
        DownloadError: they could not be fetched or verified; what came in is kept.
    """
    from llm_backend.weights import hub  # noqa: PLC0415  # its libraries cost half a second

    with terminal.progress(title) as report:

        def show(progress: hub.DownloadProgress) -> None:
            left_s = (progress.total - progress.done) / max(progress.bytes_per_s, 1)
            detail = (
                f"{mib(progress.done // _MIB)} of {mib(progress.total // _MIB)}, "
                f"{progress.bytes_per_s / _MIB:.1f} MiB/s, {duration(left_s)} left"
            )
            report(progress.file, progress.done / max(progress.total, 1), detail)

        report("asking the hub")
        return str(hub.fetch(weights, store, show))


def _not_on_the_hub(spec: ModelSpec, store: Store) -> SetupError:
    if spec.weights is None:
        return SetupError(f"{spec.id} has no weights to download: its server brings them.")
    return SetupError(
        f"The weights of {spec.id} are not on the hub, and {store.missing_reason(spec.weights)}.",
        hint="What can run here: llm-backend doctor",
    )
