"""What `serve --reload` watches. How it restarts: tests/integration/test_one_off.py."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from llm_backend.cli.reload import snapshot


def test_all_of_config_and_env_are_watched(tmp_path: Path) -> None:
    (tmp_path / "config" / "engines").mkdir(parents=True)
    nothing = snapshot(tmp_path)
    versions = [nothing]
    for name in ("config/models.yaml", "config/engines/a.yaml", ".env"):
        (tmp_path / name).write_text("one")
        versions.append(snapshot(tmp_path))
        (tmp_path / name).write_text("other")
        versions.append(snapshot(tmp_path))
    (tmp_path / ".env").unlink()
    versions.append(snapshot(tmp_path))

    assert nothing == {}
    assert all(one != other for one, other in pairwise(versions))


def test_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    before = snapshot(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "config" / "empty").mkdir()
    (tmp_path / "config" / ".models.yaml.swp").touch()

    assert snapshot(tmp_path) == before
