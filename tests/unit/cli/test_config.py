"""`config check`: what holds and where it comes from; what is wrong, with file, line and key."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.conftest import MODELS, Command, write_catalog


def write_settings(root: Path, text: str) -> None:
    (root / "config" / "gateway.yaml").write_text(text)


def test_what_differs_from_the_default_is_shown_with_its_source(
    command: Command, root: Path, tmp_path: Path
) -> None:
    write_settings(root, "limits:\n  queue: 7\n  messages: 2000\n")
    (root / ".env").write_text("# ours\nLLM_SWITCHING__MODE=manual\n")

    result = command("config", "check")

    rows = [line.split() for line in result.out.splitlines()]
    assert result.code == 0
    assert rows[0] == ["SETTING", "VALUE", "FROM"]
    assert ["state_dir", str(tmp_path / "state"), "environment"] in rows
    assert ["limits.queue", "7", "config/gateway.yaml:2"] in rows
    assert ["switching.mode", "manual", ".env:2"] in rows
    assert not any("limits.messages" in row for row in rows)
    assert result.out.endswith(
        f"Settings and catalog are right: 4 models in {root}/config/models.yaml.\n"
    )


def test_all_settings_can_be_shown(command: Command) -> None:
    result = command("config", "check", "--all")

    assert "limits.queue_timeout_s        900 s" in result.out
    assert "cache.redis_url               none" in result.out


def test_programs_get_every_setting(command: Command, root: Path) -> None:
    result = command("config", "check", "--json").json

    settings = {setting["key"]: setting for setting in result["settings"]}
    assert result["root"] == str(root)
    assert result["models"] == ["tiny", "absent", "huge", "boxed"]
    assert settings["server.port"]["variable"] == "LLM_SERVER__PORT"
    assert settings["server.port"]["origin"]["kind"] == "environment"


def test_a_misspelled_setting_is_named_with_its_place_and_the_right_one(
    command: Command, root: Path
) -> None:
    write_settings(root, "server:\n  prot: 7001\n")

    result = command("config", "check")

    assert result.code == 78
    assert result.err == (
        "Error: config/gateway.yaml:2: server.prot: unknown key; did you mean 'port'?\n"
    )


def test_a_broken_catalog_is_named_with_its_place(command: Command, root: Path) -> None:
    write_catalog(root, {"tiny": MODELS["tiny"] | {"devices": ["gpu"]}})

    result = command("config", "check", "--json")

    assert result.code == 78
    assert result.json["error"]["code"] == "config_error"
    assert "config/models.yaml:" in result.json["error"]["message"]
    assert "'gpu'" in result.json["error"]["message"]


def test_what_only_shows_together_is_refused_too(command: Command, root: Path) -> None:
    write_settings(root, "server:\n  host: 0.0.0.0\n")

    result = command("config", "check")

    assert result.code == 78
    assert "no key has the scope 'infer'" in result.err


def test_what_is_only_odd_is_a_warning(command: Command, root: Path) -> None:
    write_settings(root, "switching:\n  drain_timeout_s: 5000\n")

    result = command("config", "check")

    assert result.code == 0
    assert "Warning: config/gateway.yaml:2: switching.drain_timeout_s: 5000 s is more" in result.out
