"""The scripts, in checkouts of their own: from nothing to running and back, and every refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_backend.cli.control import find_gateway
from tests.harness import PATIENCE_S, REPOSITORY, eventually, fake_model, gateway_home
from tests.unit.cli.test_bootstrap import require, wheel

pytestmark = pytest.mark.feature("start and stop")

SCRIPTS = ("stop_all", "switch_model", "health_check", "logs", "download_models")
TOOLS = ("bash", "dirname", "readlink", "cat")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout whose requirements lead to what is installed here already."""
    root = tmp_path_factory.mktemp("check out")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "llm_backend", root / "llm_backend", ignore=ignore)
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    here = sysconfig.get_path("purelib")
    require(root, "base", wheel(root, "borrowed", "1.0", {"borrowed.pth": f"{here}\n"}))
    require(root, "local", wheel(root, "trinket", "1.0"))
    return root


class Machine:
    """Runs scripts of a checkout as a person would."""

    def __init__(self, checkout: Path, state_dir: Path) -> None:
        self.checkout = checkout
        self.state_dir = state_dir
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "VIRTUAL_ENV"))}
        self.environment = kept | {"LLM_STATE_DIR": str(state_dir), "NO_COLOR": "1"}

    def begin(self, script: str | Path, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = self.begin(
            path or self.checkout / "scripts" / f"{script}.sh",
            *arguments,
            cwd=cwd or self.checkout,
        )
        out, err = process.communicate(timeout=PATIENCE_S * 2)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def machine(checkout: Path, tmp_path: Path) -> Iterator[Machine]:
    with gateway_home(tmp_path) as home:
        home.configure({name: fake_model(tmp_path, name) for name in ("first", "second")})
        shutil.copytree(home.root / "config", checkout / "config", dirs_exist_ok=True)
        machine = Machine(checkout, tmp_path / "state")
        try:
            yield machine
        finally:
            if (checkout / ".venv" / "bin" / "llm-backend").exists():
                machine.run("stop_all")


def test_before_the_first_start_every_script_names_it(machine: Machine) -> None:
    shutil.rmtree(machine.checkout / ".venv", ignore_errors=True)
    for script in SCRIPTS:
        for where, command in (
            (machine.checkout, "bash scripts/start_all.sh"),
            (Path("/"), f"bash {machine.checkout}/scripts/start_all.sh"),
        ):
            done = machine.run(script, cwd=where)
            assert done.returncode == 1
            assert (done.stdout, done.stderr) == (
                "",
                f"Error: Nothing is set up yet.\nRun: {command}\n",
            )


def test_from_nothing_to_running_and_back(machine: Machine, tmp_path: Path) -> None:
    shutil.rmtree(machine.checkout / ".venv", ignore_errors=True)
    # Two people at once: one environment, one gateway.
    options = ("--setup", "local", "--yes", "--json")
    script = machine.checkout / "scripts" / "start_all.sh"
    both = [machine.begin(script, *options, cwd=tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE_S * 3) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    results: list[Any] = [json.loads(out) for out, _ in said]
    assert sorted(result["already"] for result in results) == [False, True]
    text = "".join(err for _, err in said)
    assert text.count("Making the virtual environment .venv (Python 3.") == 1
    assert text.count("Installing requirements/base.txt (1 of 2") == 1
    assert text.count("Installing requirements/local.txt (2 of 2") == 1

    again = machine.run("start_all", "--yes", "--detach")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("It runs already (process ")
    assert "Stop it: .venv/bin/llm-backend stop\n" in again.stdout

    link = tmp_path / "switch"
    link.symlink_to(machine.checkout / "scripts" / "switch_model.sh")
    switched = machine.run("", "second", path=link, cwd=tmp_path)
    assert switched.returncode == 0, switched.stderr
    assert switched.stdout.startswith("second is awake (")

    health = machine.run("health_check", cwd=Path("/"))
    assert health.returncode == 0
    assert health.stdout.startswith("Health   ok\n")
    assert "Awake    second\n" in health.stdout
    assert "gateway_ready" in machine.run("logs", "gateway", "-n", "1000").stdout
    assert "no weights to download" in machine.run("download_models", "first").stderr

    stopped = machine.run("stop_all", cwd=Path("/"))
    assert stopped.returncode == 0, stopped.stderr
    assert "Stopped the engine of second.\n" in stopped.stdout
    assert find_gateway(machine.state_dir) is None
    assert machine.run("health_check").returncode == 69


def test_ctrl_c_while_in_the_foreground_stops_everything(machine: Machine) -> None:
    script = machine.checkout / "scripts" / "start_all.sh"
    process = machine.begin(script, "--yes", cwd=machine.checkout)
    assert process.stdout is not None
    said = ""
    while "Ctrl-C stops everything" not in said:
        line = process.stdout.readline()
        assert line, process.communicate()
        said += line

    process.send_signal(2)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    eventually(lambda: find_gateway(machine.state_dir) is None)


def test_a_wrong_option_is_refused(machine: Machine) -> None:
    done = machine.run("start_all", "--modle", "first")

    assert done.returncode == 2
    assert "No such option: --modle" in done.stderr
    assert "--model" in done.stderr


class TestWhatTheSystemLacks:
    """What start_all.sh says where Python is missing, too old, or half there."""

    @pytest.fixture
    def bare(self, checkout: Path, tmp_path: Path) -> Path:
        """Return a directory that stands for all of the system's programs."""
        shutil.rmtree(checkout / ".venv", ignore_errors=True)
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found is not None
            (tools / name).symlink_to(found)
        self.program(tools, "id", "echo 1000")
        self.program(tools, "apt-get", "exit 0")
        return tools

    def program(self, tools: Path, name: str, text: str) -> None:
        (tools / name).write_text(f"#!{tools}/bash\n{text}\n")
        (tools / name).chmod(0o755)

    def python(self, tools: Path, name: str, version: str, *, complete: bool = False) -> None:
        """Install a Python that answers what start_all.sh asks of one."""
        recent = int(version.partition(".")[2]) >= 11
        text = f"""case "$*" in
          *'import ensurepip'*) exit {int(not complete)} ;;
          *print*) echo {version} ;;
          *sys.exit*) exit {int(not recent)} ;;
          *bootstrap.py*) echo "$0 makes the environment" >&2; exit 7 ;;
        esac"""
        self.program(tools, name, text)

    def refusal(self, checkout: Path, tools: Path) -> list[str]:
        done = subprocess.run(
            [tools / "bash", checkout / "scripts" / "start_all.sh", "--yes"],
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.splitlines()

    def test_no_python(self, checkout: Path, bare: Path) -> None:
        assert self.refusal(checkout, bare) == [
            "Error: There is no Python 3.",
            "Type: sudo apt-get install -y python3 python3-venv",
        ]

    def test_an_old_python(self, checkout: Path, bare: Path) -> None:
        self.python(bare, "python3", "3.10")

        assert self.refusal(checkout, bare) == [
            "Error: Python 3.10 is too old: 3.11 or newer is needed.",
            "Type: sudo apt-get install -y python3.11 python3.11-venv",
        ]

    def test_a_python_without_venv(self, checkout: Path, bare: Path) -> None:
        self.python(bare, "python3", "3.11")

        assert self.refusal(checkout, bare) == [
            "Error: python3 cannot make virtual environments: venv or ensurepip is missing.",
            "Type: sudo apt-get install -y python3-venv",
        ]

    def test_root_needs_no_sudo(self, checkout: Path, bare: Path) -> None:
        self.program(bare, "id", "echo 0")
        self.python(bare, "python3.12", "3.12")

        assert self.refusal(checkout, bare)[1] == "Type: apt-get install -y python3.12-venv"

    def test_a_system_without_apt(self, checkout: Path, bare: Path) -> None:
        (bare / "apt-get").unlink()
        self.program(bare, "dnf", "exit 0")

        assert self.refusal(checkout, bare)[1] == "Type: sudo dnf install -y python3.12"

    def test_a_shim_that_leads_nowhere_is_passed_over(self, checkout: Path, bare: Path) -> None:
        self.program(bare, "python3.13", "echo 'python3.13: command not found' >&2; exit 127")
        self.python(bare, "python3.12", "3.12")
        self.python(bare, "python3", "3.11", complete=True)

        done = subprocess.run(
            [bare / "bash", checkout / "scripts" / "start_all.sh"],
            env={"PATH": str(bare)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

        assert done.returncode == 7
        assert done.stderr == f"{bare}/python3 makes the environment\n"


def test_every_script_begins_with_what_it_does_and_fails_early() -> None:
    for script in (*SCRIPTS, "start_all"):
        lines = (REPOSITORY / "scripts" / f"{script}.sh").read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        assert lines[1].startswith("# ")
        assert "set -euo pipefail" in lines
