"""The wheel as a tool of its own, in a home where nothing is: what doctor says leads to an answer."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagesize
import pytest

from tests.guided import INSTALL_S, UV, Done, build_wheel, first_answer, follow_doctor

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FROM_OUTSIDE = ("PIP_", "UV_", "SSL_", "REQUESTS_", "HTTP_", "HTTPS_", "NO_PROXY", "ALL_PROXY")
"""How packages are fetched on this machine; all else of its environment stays out."""


@dataclass(frozen=True)
class Home:
    """A person's home: a shell in it, and nothing installed but by that person."""

    path: Path
    tools: Path
    """Where the installer is."""

    def type(self, line: str, **variables: str) -> Done:
        """Run a line in a shell."""
        kept = {k: v for k, v in os.environ.items() if k.upper().startswith(FROM_OUTSIDE)}
        places = (self.path / ".local/bin", self.tools, "/usr/local/bin", "/usr/bin", "/bin")
        environment = {
            **kept,
            "HOME": str(self.path),
            "PATH": ":".join(map(str, places)),
            "LANG": "C.UTF-8",
            "LLM_SERVER__PORT": "0",
            **variables,
        }
        done = subprocess.run(
            # Not the last command, so that the shell stays: completion asks who called.
            ["bash", "-c", f"{line}\nexit $?"],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, line: str, **variables: str) -> str:
        """Run a line that must succeed; return what it printed."""
        done = self.type(line, **variables)
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        return done.out


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["pipx", "uv"])
def home(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """A home where the wheel has been installed as a tool."""
    program = shutil.which("pipx") if request.param == "pipx" else str(UV)
    if program is None:
        pytest.skip("pipx is not installed: apt-get install pipx")
    root = tmp_path_factory.mktemp(request.param)
    # The installer alone: beside it may be an llm-backend of this checkout.
    tools = root / "tools"
    tools.mkdir()
    (tools / request.param).symlink_to(program)
    home = Home(root / "home", tools)
    home.path.mkdir()
    line = "pipx install" if request.param == "pipx" else "uv tool install --quiet"
    home.good(f"{line} {shlex.quote(str(wheel))}")
    yield home
    home.type("llm-backend stop")


@pytest.mark.feature("pipx and uv tool install")
def test_doctor_leads_from_nothing_to_a_first_answer(home: Home) -> None:
    follow_doctor(home)

    assert "Paris" in first_answer(home)


@pytest.mark.feature("pipx and uv tool install")
def test_the_catalog_comes_with_it(home: Home) -> None:
    assert "smollm2-long" in home.good("llm-backend models")
    assert "site-packages" in home.good("llm-backend config check")
    assert "llm-backend 0." in home.good("llm-backend --version")


@pytest.mark.feature("shell completion")
def test_the_shell_completes_commands_and_models(home: Home) -> None:
    home.good("llm-backend --install-completion bash")
    script = home.path / ".bash_completions/llm-backend.sh"
    completed = (
        f"source {script}; COMP_WORDS=(llm-backend %s); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '$(complete -p llm-backend | sed "s/.*-F \\([^ ]*\\).*/\\1/") llm-backend; echo ${COMPREPLY[@]}'
    )

    assert str(script) in (home.path / ".bashrc").read_text()
    assert home.good(completed % "ben").split() == ["bench"]
    assert home.good(completed % "bench smo").split() == ["smollm2-long", "smollm2-wide"]
    assert home.good(completed % "switch qwen-14").split() == ["qwen-14b"]


@pytest.mark.feature("model benchmark")
@pytest.mark.parametrize("home", ["uv"], indirect=True)
def test_a_chart_once_what_it_names_is_installed(home: Home) -> None:
    follow_doctor(home)
    line = "llm-backend bench smollm2 --prompt short --requests 4 --concurrency 1,2 --max-tokens 8"
    refused = home.type(f"{line} --chart chart.png")
    installing = re.search(r"Type: (.+)", refused.err)
    assert installing is not None, refused.err
    home.good(installing[1])
    home.good(f"{line} --chart chart.png", MPLCONFIGDIR=str(home.path))

    assert imagesize.get(home.path / "chart.png") == (1500, 600)
