"""Which model a start begins with."""

from __future__ import annotations

from llm_backend.cli.machine import Offer
from llm_backend.cli.picker import pick
from llm_backend.cli.project import Project
from llm_backend.config.catalog import ModelSpec
from llm_backend.errors import ModelNotFound, SetupError


def first_model(
    project: Project, offers: dict[str, Offer], name: str | None, *, ask: bool
) -> ModelSpec:
    """Return the model to begin with: the one named, the one chosen, or the default.

    The default is what the settings preload, else the catalog's default, else any other; those
    that can be loaded at once go before those whose weights would have to be fetched.

    Raises:
        ModelNotFound: the catalog has not the model named, or it cannot run here; says why.
        SetupError: no model can run here.
    """
    able = [offer for offer in offers.values() if offer.obstacle is None]
    if name is not None:
        return _named(project, offers, name, able)
    if not able:
        why = next((str(offer.obstacle) for offer in offers.values()), "it is empty")
        raise SetupError(
            f"No model of the catalog can run here. The first: {why.rstrip('.')}.",
            hint="See why: llm-backend doctor",
        )
    default = _default(project, able)
    return project.model(pick("Which model first?", offers.values(), default) if ask else default)


def _named(project: Project, offers: dict[str, Offer], name: str, able: list[Offer]) -> ModelSpec:
    spec = project.model(name)
    obstacle = offers[spec.id].obstacle
    if obstacle is None:
        return spec
    raise ModelNotFound(
        f"{spec.id} cannot run here: {obstacle}",
        hint=f"These can: {', '.join(offer.id for offer in able) or 'none'}. "
        "See why: llm-backend doctor",
    )


def _default(project: Project, able: list[Offer]) -> str:
    wanted = [project.settings.switching.preload, *project.catalog.default]
    found = [project.catalog.find(name) for name in wanted if name is not None]
    ids = [spec.id for spec in found if spec is not None] + [offer.id for offer in able]
    ready = [offer.id for offer in able if offer.downloaded]
    possible = ready or [offer.id for offer in able]
    return next(model for model in ids if model in possible)
