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
