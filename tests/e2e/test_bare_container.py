"""The wheel in a container that has Debian and nothing else: doctor leads to a first answer."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.stack import docker
from tests.guided import INSTALL_S, Done, build_wheel, first_answer, follow_doctor

pytestmark = [pytest.mark.docker, pytest.mark.slow]

IMAGE = "standin/trixie:root"
LIBRARY = "libgomp1"


@dataclass(frozen=True)
class Container:
    """A container, and root's shell in it."""

    name: str

    def type(self, line: str) -> Done:
        """Run a line in a shell."""
        path = "export PATH=$PATH:$HOME/.local/bin"
        done = subprocess.run(
            ["docker", "exec", self.name, "bash", "-c", f"{path}; {line}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, line: str) -> str:
        """Run a line that must succeed; return what it printed."""
        done = self.type(line)
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        return done.out


@pytest.fixture
def container(images: None, tmp_path: Path) -> Iterator[Container]:
    """A container with a wheel in /tmp."""
    wheel = build_wheel(tmp_path)
    name = f"llm-bare-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", "--init", "--name", name, IMAGE, "sleep", "infinity")
    try:
        docker("cp", "--quiet", str(wheel), f"{name}:/tmp/{wheel.name}")
        yield Container(name)
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.mark.feature("pipx and uv tool install")
def test_doctor_leads_from_nothing_to_a_first_answer(container: Container) -> None:
    assert container.type("command -v llm-backend sudo pipx").code != 0
    container.good("apt-get update -qq && apt-get install -y -qq --no-install-recommends pipx")
    container.good("pipx install /tmp/*.whl")

    typed = follow_doctor(container)

    assert f"apt-get install -y {LIBRARY}" in typed
    assert "Paris" in first_answer(container)
