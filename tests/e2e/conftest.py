"""Fixtures of the tests on a real Docker engine.

engine: an engine answers; without one the tests are skipped, which fails in CI.
images: the stand-in images are built.
stack: one compose set-up for a module, not started; nothing of it is left afterwards.
event_log: what happens to the engines' containers during a test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.events import EventLog
from tests.e2e.stack import ENGINES, GROUND, Stack, docker, new_stack


@pytest.fixture(scope="session")
def engine() -> str:
    try:
        done = docker("version", "--format", "{{.Server.Version}}", check=False)
    except FileNotFoundError:
        pytest.skip("there is no docker: bash tests/e2e/ground/install.sh (Debian, root)")
    if done.returncode:
        pytest.skip("no Docker engine answers: bash tests/e2e/ground/engine.sh (root)")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def images(engine: str) -> None:
    done = subprocess.run(
        ["bash", GROUND / "images.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def stack(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with new_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def event_log(engine: str) -> Iterator[EventLog]:
    with EventLog(ENGINES.values()) as log:
        yield log
