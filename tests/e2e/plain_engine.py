"""A Docker engine without a GPU, beside the other one: for what a machine without a GPU says."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness import PATIENCE_S, eventually

EMPTY_IMAGE = "standin/empty:ground"


def _is_up(environment: dict[str, str]) -> bool:
    done = subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def plain_engine(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; yield the environment in which `docker` talks to it. It has one, empty image.

    It lives in a network namespace of its own: two engines in one take each other's bridge.
    """
    address = f"unix://{folder}/docker.sock"
    environment = os.environ | {"DOCKER_HOST": address}
    places = ("--data-root", "data", "--exec-root", "exec", "--pidfile", "pid")
    command = [
        "unshare",
        "--net",
        "dockerd",
        "--bridge=none",
        "--iptables=false",
        "--host",
        address,
    ]
    command += [str(folder / word) if word[0] != "-" else word for word in places]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: _is_up(environment))
        nothing = io.BytesIO()
        tarfile.open(fileobj=nothing, mode="w").close()
        subprocess.run(
            ["docker", "import", "-", EMPTY_IMAGE],
            input=nothing.getvalue(),
            env=environment,
            capture_output=True,
            check=True,
        )
        yield environment
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
