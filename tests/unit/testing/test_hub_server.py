"""The local hub answers like the real one where downloads look."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from llm_backend.testing.hub_server import COMMIT, Faults, ModelHub, serving

CONTENT = b"x" * 100_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(CONTENT)
    (folder / "config.json").write_bytes(b"{}")
    with serving(tmp_path) as server:
        yield server


def test_the_library_reads_the_listing(hub: ModelHub) -> None:
    info = HfApi(endpoint=hub.url).model_info("org/name", files_metadata=True)

    assert info.sha == COMMIT
    small, large = info.siblings or ()
    assert (small.rfilename, small.size, small.lfs) == ("config.json", 2, None)
    assert large.lfs is not None
    assert large.lfs.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_the_library_downloads_from_it(hub: ModelHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url)
    for name, content in (("model.gguf", CONTENT), ("config.json", b"{}")):
        path = Path(api.hf_hub_download("org/name", name, cache_dir=tmp_path / "cache"))

        assert path.parent.name == COMMIT
        assert path.read_bytes() == content


def test_a_large_file_is_behind_a_redirect_that_takes_ranges(hub: ModelHub) -> None:
    url = f"{hub.url}/org/name/resolve/main/model.gguf"
    headers = {"Range": "bytes=99990-"}

    answer = httpx2.get(url, headers=headers, follow_redirects=True)

    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == "bytes 99990-99999/100000"
    assert answer.content == b"x" * 10
    assert [asked for _path, asked in hub.requests] == ["bytes=99990-"] * 2


def test_a_cut_is_seen_as_one(hub: ModelHub) -> None:
    hub.faults = Faults(cut_after=10, cuts=1)
    url = f"{hub.url}/org/name/resolve/main/model.gguf"

    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(url, follow_redirects=True)

    assert httpx2.get(url, follow_redirects=True).content == CONTENT


def test_refusals_are_those_of_the_hub(hub: ModelHub) -> None:
    api = HfApi(endpoint=hub.url)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/other")

    hub.faults = Faults(gated=True)
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("org/name", "model.gguf", local_dir=hub.root / "elsewhere")


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    command = [sys.executable, "-m", "llm_backend.testing.hub_server", str(tmp_path)]
    with subprocess.Popen([*command, "--token", "t"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip() + "/api/models/org/name"
        try:
            assert httpx2.get(url).status_code == 401
            assert httpx2.get(url, headers={"Authorization": "Bearer t"}).json()["sha"] == COMMIT
        finally:
            program.kill()
