"""Profiles are found, checked, and say where their numbers come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.config import load_catalog
from llm_backend.config.catalog import RuntimeKind
from llm_backend.errors import SetupError
from llm_backend.replay.profile import load_profile, profile_names
from tests.unit.replay.bench import profile

CATALOG = Path(__file__).parents[3] / "config" / "models.yaml"


def test_the_reference_card_is_there_and_owns_up_to_being_estimated() -> None:
    loaded = load_profile("rtx5080-awq")

    assert profile_names() == ["rtx5080-awq"]
    assert loaded.basis == "estimated"
    assert "No figure of this profile was measured" in loaded.sources[0]


def test_it_has_the_models_of_the_compose_setup() -> None:
    runnable = load_catalog(CATALOG).runnable(frozenset({RuntimeKind.DOCKER}))

    load_profile("rtx5080-awq").require(spec.id for spec in runnable)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(profile().model_dump_json())

    assert load_profile(str(path)) == profile()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "x"}', "about: Field required."),
        ("{", "Invalid JSON"),
        (profile().model_dump_json().replace('"spread":0.0', '"spread":1.0', 1), "models.a.spread"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)

    with pytest.raises(SetupError) as caught:
        load_profile(str(path))

    assert f"{path}: {told}" in str(caught.value)


def test_without_such_a_profile_those_that_there_are_are_named() -> None:
    with pytest.raises(SetupError, match=r"no profile 'nope'.*Profiles that there are: rtx5080"):
        load_profile("nope")


def test_an_answer_takes_reading_and_its_share_of_writing() -> None:
    costs = profile(tokens_per_s_at_most=100.0).models["a"]

    assert costs.answer_s(200, 100, running=1) == 2 + 2
    assert costs.answer_s(200, 100, running=2) == 2 + 2
    assert costs.answer_s(200, 100, running=4) == 2 + 4
