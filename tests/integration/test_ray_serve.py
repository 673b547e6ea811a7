"""A Ray Serve cluster as a server that others run, with Ray's own proxy and replicas.

Ray is among the programs of others: `make works-with`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from llm_backend.runtimes.ports import free_port
from tests.harness import REPOSITORY, eventually, gateway_home

PROGRAMS = REPOSITORY / ".venv-works-with"
START_S = 180

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PROGRAMS / "installed").exists(), reason="Ray is not here: make works-with"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster; its processes are a group of their own."""
    home = tmp_path_factory.mktemp("ray")
    port = free_port("127.0.0.1")
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "disabled"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    # The paths of its sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAMS / "bin/python", REPOSITORY / "tests/ray_application.py", str(port), folder],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            eventually(lambda: _serves(process, port, home / "log"), within_s=START_S, every_s=0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _serves(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with suppress(httpx2.HTTPError):
        answer = httpx2.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False)
        return answer.status_code == 200
    return False


@pytest.mark.feature("Ray Serve behind the gateway")
def test_a_ray_serve_cluster_is_used_as_it_is(cluster: str, tmp_path: Path) -> None:
    model = {
        "runtimes": ["external"],
        "engine": {"kind": "external", "base_url": cluster, "served_name": "qwen-0.5b"},
        "capabilities": ["chat"],
        "aliases": ["qwen"],
    }
    misnamed = {**model, "engine": {**model["engine"], "served_name": "other"}, "aliases": []}
    with gateway_home(tmp_path) as home:
        home.configure({"ray-qwen": model, "misnamed": misnamed}, setup="external")
        home.start()
        texts = set()
        for number in range(12):
            answer = home.chat("qwen", seed=number)
            assert answer.status_code == 200, answer.text
            texts.add(answer.json()["choices"][0]["message"]["content"])
        assert all(text.startswith("replica ") for text in texts)

        streamed = home.chat("ray-qwen", stream=True)
        assert streamed.text.rstrip().endswith("data: [DONE]")

        refused = home.chat("misnamed")
        assert refused.status_code == 502
        assert "served_name" in refused.json()["error"]["message"]
