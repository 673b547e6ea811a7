"""`cache clear` says what it forgot."""

from __future__ import annotations

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import StandIn


def test_everything_is_forgotten(command: Command, gateway: StandIn) -> None:
    result = command("cache", "clear")

    assert (result.code, result.out) == (0, "All cached answers are forgotten.\n")
    assert gateway.received[-1].body == {}


def test_one_model_is_forgotten_by_its_alias(command: Command, gateway: StandIn) -> None:
    result = command("cache", "clear", "--model", "t")

    assert result.out == "The cached answers of tiny are forgotten.\n"
    assert gateway.received[-1].body == {"model": "tiny"}


def test_programs_get_the_answer_of_the_gateway(command: Command, gateway: StandIn) -> None:
    assert command("cache", "clear", "--json").json == {"cleared": 3}


def test_an_unknown_model_never_reaches_the_gateway(command: Command, gateway: StandIn) -> None:
    result = command("cache", "clear", "--model", "nope")

    assert result.code == 1
    assert result.err.startswith("Error: The catalog has no model 'nope'; it has tiny,")
    assert gateway.received == []


def test_without_a_gateway_it_says_so(command: Command) -> None:
    result = command("cache", "clear")

    assert result.code == 69
    assert result.err == "Error: The gateway does not run.\nType: llm-backend start\n"
