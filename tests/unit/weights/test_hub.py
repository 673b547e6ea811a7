"""Downloads from a hub: which files, from which commit, and every way to be refused."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from llm_backend.config.catalog import HubWeights
from llm_backend.errors import DownloadError
from llm_backend.testing.hub_server import COMMIT, Faults, ModelHub, serving
from llm_backend.weights.hub import DownloadProgress, fetch
from llm_backend.weights.store import Store

CONTENT = bytes(range(256)) * 1024
PROJECTOR = bytes(reversed(range(256))) * 512
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    folder = tmp_path / "root" / "org" / "name"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(CONTENT)
    (folder / "mmproj.gguf").write_bytes(PROJECTOR)
    (folder / "sub" / "config.json").write_bytes(b"{}")
    with serving(tmp_path / "root") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def weights(**changes: object) -> HubWeights:
    fields: dict[str, object] = {"source": "hub", "repo": "org/name", "file": "model.gguf"}
    return HubWeights.model_validate({**fields, **changes})


def refusal(hub: ModelHub, store: Store, asked: HubWeights) -> DownloadError:
    """Return the error of a download that must fail; nothing may count as here after it."""
    with pytest.raises(DownloadError) as caught:
        fetch(asked, store, endpoint=hub.url, patience_s=0.5)
    assert store.locate(asked) is None
    return caught.value


def test_one_file_comes_in_pinned_verified_and_located(hub: ModelHub, store: Store) -> None:
    asked = weights(revision=COMMIT, sha256=DIGEST)

    path = fetch(asked, store, endpoint=hub.url)

    assert path == store.locate(asked)
    assert path.read_bytes() == CONTENT
    assert str(path.readlink()) == f"../../blobs/{DIGEST}"


def test_what_is_here_asks_nobody(hub: ModelHub, store: Store) -> None:
    path = fetch(weights(), store, endpoint=hub.url)
    hub.requests.clear()

    assert fetch(weights(), store, endpoint=hub.url) == path
    assert hub.requests == []


def test_without_a_revision_the_commit_is_recorded_and_asked_for_from_then_on(
    hub: ModelHub, store: Store
) -> None:
    fetch(weights(), store, endpoint=hub.url)
    hub.requests.clear()

    fetch(weights(file="mmproj.gguf"), store, endpoint=hub.url)

    assert store.revision(weights()) == COMMIT
    assert hub.requests[0][0] == f"/api/models/org/name/revision/{COMMIT}"


def test_the_companion_comes_too(hub: ModelHub, store: Store) -> None:
    asked = weights(companion="mmproj.gguf", companion_sha256=hashlib.sha256(PROJECTOR).hexdigest())

    fetch(asked, store, endpoint=hub.url)

    companion = store.companion(asked)
    assert companion is not None
    assert companion.read_bytes() == PROJECTOR


def test_without_a_file_the_repository_comes(hub: ModelHub, store: Store) -> None:
    folder = fetch(weights(file=None), store, endpoint=hub.url)

    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"model.gguf", "mmproj.gguf", "sub/config.json"}
    assert store.locate(weights(file=None)) == folder


def test_safetensors_make_other_formats_superfluous(
    hub: ModelHub, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "root/org/name/model.safetensors").write_bytes(b"tensors")

    folder = fetch(weights(file=None), store, endpoint=hub.url)

    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [
        "config.json",
        "model.safetensors",
    ]


def test_progress_grows_to_the_total(hub: ModelHub, store: Store) -> None:
    seen: list[DownloadProgress] = []
    asked = weights(companion="mmproj.gguf")

    fetch(asked, store, seen.append, endpoint=hub.url)

    total = len(CONTENT) + len(PROJECTOR)
    assert seen[0] == DownloadProgress("model.gguf", 0, total, 0.0)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].file, seen[-1].done, seen[-1].total) == ("mmproj.gguf", total, total)
    assert seen[-1].bytes_per_s > 0


def test_an_interrupted_download_goes_on(hub: ModelHub, store: Store) -> None:
    def interrupt(progress: DownloadProgress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(weights(), store, interrupt, endpoint=hub.url)
    assert store.locate(weights()) is None
    hub.requests.clear()

    seen: list[DownloadProgress] = []
    fetch(weights(), store, seen.append, endpoint=hub.url)

    kept = seen[0].done
    assert 0 < kept < len(CONTENT)
    assert ("/cdn/org/name/model.gguf", f"bytes={kept}-") in hub.requests


def test_an_unknown_file_is_named_with_those_that_there_are(hub: ModelHub, store: Store) -> None:
    error = refusal(hub, store, weights(file="model-q4.gguf"))

    assert "org/name has no file model-q4.gguf" in error.message
    assert error.hint == "It has: mmproj.gguf, model.gguf."


def test_an_unknown_revision_is_named(hub: ModelHub, store: Store) -> None:
    error = refusal(hub, store, weights(revision="b" * 40))

    assert error.message == f"{hub.url} has no revision {'b' * 40} of org/name."
    assert error.hint == "Check `revision` in the catalog."


def test_a_recorded_revision_that_is_gone_says_where_it_was_recorded(
    hub: ModelHub, store: Store
) -> None:
    store.remember_revision("org/name", "b" * 40)

    error = refusal(hub, store, weights())

    assert f"no revision {'b' * 40} of org/name" in error.message
    assert str(store.models_dir / "hub/models--org--name/refs/main") in (error.hint or "")


def test_an_unknown_repository_is_named(hub: ModelHub, store: Store) -> None:
    error = refusal(hub, store, weights(repo="org/other"))

    assert f"{hub.url} has no org/other (404)" in error.message


def test_without_a_token_the_error_names_the_variable(
    hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = Faults(token="secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)

    error = refusal(hub, store, weights())

    assert "refuses org/name (401)" in error.message
    assert "HF_TOKEN" in (error.hint or "")


def test_the_token_of_the_environment_opens(
    hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = Faults(token="secret")
    monkeypatch.setenv("HF_TOKEN", "secret")

    assert fetch(weights(), store, endpoint=hub.url).read_bytes() == CONTENT


def test_a_gated_repository_says_how_to_get_in(hub: ModelHub, store: Store) -> None:
    hub.faults = Faults(gated=True)

    error = refusal(hub, store, weights())

    assert "org/name is gated" in error.message
    assert f"{hub.url}/org/name" in (error.hint or "")
    assert "HF_TOKEN" in (error.hint or "")


def test_a_checksum_that_the_hub_contradicts_fails_before_the_download(
    hub: ModelHub, store: Store
) -> None:
    error = refusal(hub, store, weights(sha256="0" * 64))

    assert DIGEST in error.message
    assert "0" * 64 in error.message
    assert len(hub.requests) == 1


def test_content_that_is_not_what_was_announced_is_removed(hub: ModelHub, store: Store) -> None:
    hub.faults = Faults(corrupt=True)

    error = refusal(hub, store, weights())

    assert f"not {DIGEST}; it was removed" in error.message
    assert list((store.repository("org/name") / "blobs").iterdir()) == []


def test_a_disk_that_is_too_small_is_noticed_first(hub: ModelHub, store: Store) -> None:
    hub.faults = Faults(announce=500 * 1024**4)

    error = refusal(hub, store, weights())

    assert f"org/name needs 512000.0 GiB in {store.models_dir}, where" in error.message
    assert "models_dir" in (error.hint or "")
    assert len(hub.requests) == 1


def test_what_is_here_counts_when_space_is_short(
    hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store.repository("org/name") / "blobs" / f"{DIGEST}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:-1])
    monkeypatch.setattr(
        "llm_backend.weights.hub.shutil.disk_usage", lambda _path: Usage(0, 0, 64 * 1024**2 + 1)
    )

    assert fetch(weights(), store, endpoint=hub.url).read_bytes() == CONTENT


def test_a_models_directory_that_cannot_be_made_is_named(hub: ModelHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    error = refusal(hub, Store(tmp_path / "file" / "models"), weights())

    assert f"{tmp_path}/file" in error.message


def test_a_hub_that_is_not_there_is_named(store: Store) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"

        with pytest.raises(DownloadError) as caught:
            fetch(weights(), store, endpoint=address)

    assert f"The model hub at {address} cannot be reached" in caught.value.message
    assert "HF_ENDPOINT" in (caught.value.hint or "")


def test_a_captive_portal_is_not_taken_for_a_hub(hub: ModelHub, store: Store) -> None:
    hub.faults = Faults(page="<html>Please log in</html>")

    error = refusal(hub, store, weights())

    assert f"{hub.url} does not answer like a model hub" in error.message


def test_a_hub_in_trouble_is_quoted(hub: ModelHub, store: Store) -> None:
    hub.faults = Faults(status=500)

    assert f"{hub.url} answers 500 for org/name" in refusal(hub, store, weights()).message
