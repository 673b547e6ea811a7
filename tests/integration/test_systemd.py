"""The units of deploy/systemd, read by systemd's own tools."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llm_backend.config import load_settings
from llm_backend.errors import AlreadyRunning, ConfigError
from tests.harness import REPOSITORY

pytestmark = pytest.mark.feature("service of systemd")

SYSTEM = REPOSITORY / "deploy/systemd/llm-backend.service"
USER = REPOSITORY / "deploy/systemd/user/llm-backend.service"
MOST_EXPOSED = 25
"""Of 100, as systemd-analyze counts it; a service that hides nothing has 96."""


def service(unit: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parser.read(unit)
    return parser["Service"]


def analyze(folder: Path, *arguments: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("unit", "scope"), [(SYSTEM, "--system"), (USER, "--user")])
def test_systemd_finds_nothing_wrong(unit: Path, scope: str, tmp_path: Path) -> None:
    program = tmp_path / "llm-backend"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text, count = re.subn(r"ExecStart=\S+", f"ExecStart={program}", unit.read_text())
    copy = tmp_path / unit.name
    copy.write_text(text)

    assert count == 1
    assert analyze(tmp_path, "verify", "--man=no", scope, str(copy)) == ""


def test_the_system_s_unit_is_fenced_in(tmp_path: Path) -> None:
    limit = f"--threshold={MOST_EXPOSED}"

    assert "OK" in analyze(tmp_path, "security", "--offline=yes", limit, str(SYSTEM))


@pytest.mark.parametrize("unit", [SYSTEM, USER])
def test_a_restart_leaves_the_engine_and_its_sockets(unit: Path) -> None:
    settings = service(unit)

    assert settings["KillMode"] == "process"
    assert settings["ExecStart"].endswith("/llm-backend serve")
    for name in ("PrivateTmp", "DynamicUser", "PrivateDevices", "MemoryDenyWriteExecute"):
        assert name not in settings
    codes = {str(error.exit_code) for error in (AlreadyRunning, ConfigError)}
    assert set(settings["RestartPreventExitStatus"].split()) == codes


def test_its_variables_are_settings(tmp_path: Path) -> None:
    lines = re.findall(r"^Environment=(\w+)=(.*)$", SYSTEM.read_text(), re.MULTILINE)
    (tmp_path / "config").mkdir()
    settings = load_settings(tmp_path, {}, dict(lines))

    assert settings.state_dir == Path("/var/lib/llm-backend/state")
    assert settings.models_dir == Path("/var/cache/llm-backend/models")
