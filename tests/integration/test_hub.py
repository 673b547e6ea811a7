"""Downloads across processes: killed, resumed, out of space, and read by other tools."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from llm_backend.config.catalog import HubWeights
from llm_backend.testing.hub_server import ModelHub, serving
from llm_backend.weights.hub import fetch
from llm_backend.weights.store import Store

pytestmark = pytest.mark.feature("downloads")

CONTENT = os.urandom(4 * 1024 * 1024)
WEIGHTS = HubWeights(source="hub", repo="org/name", file="model.gguf")

PROGRAM = """
import sys
from pathlib import Path
from llm_backend.config.catalog import HubWeights
from llm_backend.weights.hub import fetch
from llm_backend.weights.store import Store

def on_progress(progress):
    print(progress.done, flush=True)
    {on_progress}

weights = HubWeights(source="hub", repo="org/name", file="model.gguf")
try:
    fetch(weights, Store(Path(sys.argv[1])), on_progress, patience_s=2)
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    (tmp_path / "root" / "org" / "name").mkdir(parents=True)
    (tmp_path / "root" / "org" / "name" / "model.gguf").write_bytes(CONTENT)
    with serving(tmp_path / "root") as server:
        yield server


def program(on_progress: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(on_progress=on_progress)]


def test_a_download_that_was_killed_goes_on_in_another_process(
    hub: ModelHub, tmp_path: Path
) -> None:
    store = Store(tmp_path / "models")
    env = {**os.environ, "HF_ENDPOINT": hub.url}
    wait = "progress.done > 1_000_000 and sys.stdin.read()"
    with subprocess.Popen(
        [*program(wait), str(store.models_dir)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdout is not None
        next(line for line in first.stdout if int(line) > 1_000_000)
        first.kill()
    assert store.locate(WEIGHTS) is None

    second = subprocess.run(
        [*program("pass"), str(store.models_dir)], env=env, capture_output=True, check=True
    )

    path = store.locate(WEIGHTS)
    assert path is not None
    assert path.read_bytes() == CONTENT
    kept = int(second.stdout.splitlines()[0])
    assert kept > 1_000_000
    assert ("/cdn/org/name/model.gguf", f"bytes={kept}-") in hub.requests


def test_a_disk_that_becomes_full_is_said_and_costs_nothing(hub: ModelHub, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # What another program writes meanwhile: all that is left.
    fill = "progress.done or Path(sys.argv[1], 'filler').write_bytes(b'x' * (70 << 20))"
    inside = f'mount -t tmpfs -o size=72m tmpfs {disk} && exec "$@"'

    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", inside, "sh", *program(fill), disk],
        env={**os.environ, "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "DownloadError: The disk became full while org/name came in" in result.stderr
    assert "try again: what came in is kept" in result.stderr


def test_a_container_finds_a_whole_repository_by_its_name_offline(
    hub: ModelHub, tmp_path: Path
) -> None:
    """As vLLM looks for `model: org/name` with HF_HUB_OFFLINE=1 and HF_HOME at the store."""
    store = Store(tmp_path / "models")
    path = fetch(HubWeights(source="hub", repo="org/name"), store, endpoint=hub.url)
    script = "from huggingface_hub import snapshot_download; print(snapshot_download('org/name'))"

    found = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HOME": str(store.models_dir), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == str(path)
    assert (path / "model.gguf").read_bytes() == CONTENT


def test_other_tools_find_the_weights_in_the_cache(hub: ModelHub, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    path = fetch(WEIGHTS, store, endpoint=hub.url)

    found = hf_hub_download(
        "org/name", "model.gguf", cache_dir=store.models_dir / "hub", local_files_only=True
    )

    assert Path(found) == path
    assert path.resolve().name == hashlib.sha256(CONTENT).hexdigest()
