"""`serve`: refusals before anything is started. Serving itself: tests/integration/test_cli.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command


def test_an_address_for_everybody_needs_a_key(command: Command) -> None:
    result = command("serve", "--host", "0.0.0.0")

    assert result.code == 78
    assert result.err.startswith("Error: flag: server.host: '0.0.0.0' lets other machines in")


def test_a_wrong_setting_is_named(command: Command, root: Path) -> None:
    (root / "config" / "gateway.yaml").write_text("limits: {queue: none}\n")

    result = command("serve")

    assert result.code == 78
    assert "config/gateway.yaml:1: limits.queue" in result.err


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_has_to_be_one(command: Command, port: str) -> None:
    assert command("serve", "--port", port).code == 2


@pytest.mark.parametrize(
    "option",
    [
        ("--quantization", "awq"),
        ("--device", "cpu"),
        ("--tensor-parallel-size", "2"),
        ("--max-model-len", "4096"),
        ("--gpu-memory-utilization", "0.5"),
    ],
)
def test_options_of_one_model_go_with_its_path(command: Command, option: tuple[str, str]) -> None:
    result = command("serve", *option)

    assert result.code == 2
    assert f"{option[0]} goes with --model-path." in result.err


@pytest.mark.feature("serve a model in no catalog")
def test_a_model_path_beyond_loopback_needs_a_key_before_anything_else(command: Command) -> None:
    result = command("serve", "--model-path", "org/never-fetched", "--host", "0.0.0.0")

    assert result.code == 78
    assert "no key has the scope 'infer'" in result.err


@pytest.mark.feature("serve a model in no catalog")
def test_containers_are_made_of_the_catalog_alone(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODEL_ID", "org/name")
    result = command("serve", "--setup", "compose")

    assert result.code == 1
    assert result.err.startswith("Error: org/name is in no catalog, and compose makes containers")


@pytest.mark.feature("serve by environment")
@pytest.mark.feature("serve a model in no catalog")
def test_the_environment_stands_for_flags(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODEL_ID", str(tmp_path / "absent.gguf"))
    monkeypatch.setenv("LLM_DEVICE", "abacus")
    by_environment = command("serve")
    by_flag = command("serve", "--device", "cpu")

    assert by_environment.err.startswith("Error: There is no device 'abacus'.")
    assert by_flag.err.startswith("Error: There is nothing at ")


@pytest.mark.feature("serve a model in no catalog")
def test_offline_weights_that_are_not_here_say_so(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    result = command("serve", "--model-path", "org/name")

    assert result.code == 69
    assert result.err.startswith("Error: The model hub at http://127.0.0.1:1 cannot be reached: ")
