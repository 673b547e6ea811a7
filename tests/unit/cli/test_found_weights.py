"""Which weights a path or a repository stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.cli.found_weights import choose, find_weights
from llm_backend.config.catalog import HubWeights, PathWeights
from llm_backend.errors import DownloadError, SetupError
from llm_backend.testing.hub_server import serving
from llm_backend.weights.store import Store, VerifiedFile

pytestmark = pytest.mark.feature("serve a model in no catalog")

MANY = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-f16.gguf", "mmproj-m-f16.gguf", "README.md")
COMMIT = "0" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_a_file_is_for_llamacpp(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    found = find_weights(str(path), None, store)

    assert (found.name, found.is_gguf) == ("small", True)
    assert found.weights == PathWeights(source="path", path=str(path))


def test_a_directory_with_a_config_is_for_vllm(tmp_path: Path, store: Store) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").touch()
    found = find_weights(str(tmp_path / "big"), None, store)

    assert (found.name, found.is_gguf) == ("big", False)


def test_a_directory_with_gguf_files_gives_one_of_them(tmp_path: Path, store: Store) -> None:
    for name in MANY:
        (tmp_path / name).write_bytes(b"GGUF")
    found = find_weights(str(tmp_path), "8bit", store)

    assert found.weights == PathWeights(source="path", path=str(tmp_path / "m-Q8_0.gguf"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.gguf", "There is nothing at "),
        ("notes.txt", "is no GGUF file"),
        ("text.gguf", "is no GGUF file"),
        ("broken.gguf", "There is nothing at "),
        ("empty", "has neither a config.json nor a whole GGUF file"),
        ("/dev/null", "/dev/null is no GGUF file"),
        pytest.param("a" * 5000, "cannot be read: File name too long", id="long"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, store: Store, name: str, message: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("Hello")
    (tmp_path / "broken.gguf").symlink_to("nowhere")

    with pytest.raises(SetupError, match=message):
        find_weights(str(tmp_path / name), None, store)


@pytest.mark.parametrize("name", ["models/typo.gguf", "models/broken", "~nobody-here/x"])
def test_a_file_that_is_not_there_is_not_asked_of_the_hub(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models" / "broken").symlink_to("nowhere")

    with pytest.raises(
        SetupError, match=r"There is nothing at|cannot be read: Could not"
    ) as caught:
        find_weights(name, None, store)
    assert not isinstance(caught.value, DownloadError)


@pytest.mark.parametrize(
    ("precision", "file"),
    [(None, MANY[0]), ("4bit", MANY[0]), ("8bit", MANY[1]), ("none", MANY[2])],
)
def test_of_several_files_the_precision_decides(precision: str | None, file: str) -> None:
    assert choose(MANY, precision, "org/name") == file


def test_the_only_file_is_taken_whatever_it_is() -> None:
    assert choose(["m-Q2_K.gguf", "m-00001-of-00002.gguf"], None, "x") == "m-Q2_K.gguf"


def test_a_precision_that_is_not_there_lists_the_files() -> None:
    with pytest.raises(SetupError, match="no GGUF file of the precision 8bit") as caught:
        choose(["m-Q4_0.gguf"], "8bit", "org/name")

    assert caught.value.hint == "Name one of these: org/name/m-Q4_0.gguf"


def test_a_repository_is_looked_up_on_the_hub(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf, whole = tmp_path / "hub/org/small", tmp_path / "hub/org/big"
    for folder, names in ((gguf, MANY), (whole, ("config.json", "model.safetensors"))):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(name)
    with serving(tmp_path / "hub") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        small = find_weights("org/small", None, store)
        big = find_weights("org/big", None, store)

    assert small.weights == HubWeights(
        source="hub", repo="org/small", file=MANY[0], companion=MANY[3]
    )
    assert (big.name, big.is_gguf) == ("org/big", False)
    assert big.weights == HubWeights(source="hub", repo="org/big")


def test_what_is_here_needs_no_hub(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    store.remember_revision("org/small", COMMIT)
    store.remember_verified("org/small", COMMIT, {MANY[0]: VerifiedFile(0, "0" * 64)}, whole=False)

    assert find_weights("org/small", None, store).weights == HubWeights(
        source="hub", repo="org/small", file=MANY[0]
    )
    assert find_weights(f"org/small/{MANY[0]}", None, store).is_gguf
    with pytest.raises(DownloadError, match="cannot be reached"):
        find_weights("org/small", "8bit", store)
