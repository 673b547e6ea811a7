"""Which model a start begins with where nobody names one, and refusals where somebody does."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.cli.first_model import first_model
from llm_backend.cli.machine import Machine
from llm_backend.cli.project import open_project
from llm_backend.errors import ModelNotFound, SetupError
from tests.unit.cli.conftest import MODELS, write_catalog

OTHER = MODELS["tiny"] | {"aliases": ["o"]}


def chosen(name: str | None = None) -> str:
    project = open_project()
    return first_model(project, Machine(project).offers("local"), name, ask=False).id


def test_the_first_that_can_be_loaded_at_once(root: Path) -> None:
    write_catalog(root, {name: MODELS[name] for name in ("boxed", "huge", "absent", "tiny")})

    assert chosen() == "tiny"


def test_the_default_of_the_catalog_goes_before_the_others(root: Path) -> None:
    write_catalog(root, {**MODELS, "other": OTHER}, default=["boxed", "other"])

    assert chosen() == "other"


def test_what_the_settings_preload_goes_before_the_default(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SWITCHING__PRELOAD", "t")
    write_catalog(root, {**MODELS, "other": OTHER}, default="other")

    assert chosen() == "tiny"


def test_a_default_whose_weights_are_not_here_comes_after_those_that_are(root: Path) -> None:
    write_catalog(root, default="absent")

    assert chosen() == "tiny"


def test_if_no_weights_are_here_the_default_is_fetched(root: Path) -> None:
    write_catalog(
        root, {"boxed": MODELS["boxed"], "absent": MODELS["absent"]}, default=["boxed", "absent"]
    )

    assert chosen() == "absent"


def test_a_model_that_is_named_is_taken_by_its_alias(root: Path) -> None:
    assert chosen("t") == "tiny"
    assert chosen("absent") == "absent"


def test_a_model_that_cannot_run_here_is_answered_with_those_that_can(root: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        chosen("boxed")

    assert str(caught.value) == (
        "boxed cannot run here: it runs on docker, which the set-up local does not have. "
        "These can: tiny, absent. See why: llm-backend doctor"
    )


def test_an_unknown_model_is_answered_with_those_there_are(root: Path) -> None:
    with pytest.raises(ModelNotFound, match="The catalog has no model 'nope'; it has tiny, "):
        chosen("nope")


def test_where_nothing_can_run_the_doctor_is_next(root: Path) -> None:
    write_catalog(root, {"boxed": MODELS["boxed"]})

    with pytest.raises(SetupError) as caught:
        chosen()

    assert str(caught.value).startswith("No model of the catalog can run here. The first: ")
    assert str(caught.value).endswith(". See why: llm-backend doctor")
