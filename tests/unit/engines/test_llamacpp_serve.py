"""The child program: what it says when it cannot serve. Serving is tested with real weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_backend.engines import llamacpp_serve

PROGRAM = llamacpp_serve.__file__
ARGUMENTS = ["--port", "0", "--alias", "m"]


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("Linux", "aarch64", ["no current wheel for Linux on ARM64", "vLLM", "kind: external"]),
        ("Linux", "riscv64", ["no wheel for Linux on riscv64", "kind: external"]),
        ("Windows", "AMD64", ["no wheel for Windows", "kind: external"]),
    ],
)
def test_a_missing_wheel_is_explained_for_the_machine(
    system: str, machine: str, words: list[str]
) -> None:
    reason = llamacpp_serve.no_wheel(system, machine)

    assert reason is not None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(("system", "machine"), [("Linux", "x86_64"), ("Darwin", "arm64")])
def test_elsewhere_there_is_a_wheel(system: str, machine: str) -> None:
    assert llamacpp_serve.no_wheel(system, machine) is None


def run(*options: str, model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, PROGRAM, "--model", str(model), *ARGUMENTS]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_without_the_wheel_it_names_the_command(tmp_path: Path) -> None:
    result = run("-P", "-S", model=tmp_path / "m.gguf")

    assert result.returncode == llamacpp_serve.EX_UNAVAILABLE
    assert result.stderr.startswith("llamacpp_serve: xllamacpp ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("-P", model=tmp_path / "m.gguf")

    assert result.returncode == llamacpp_serve.EX_NOINPUT
    assert result.stderr == f"llamacpp_serve: there is no file {tmp_path}/m.gguf\n"


def test_a_file_that_is_no_model_is_named_beside_the_engine_s_own_lines(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"no model")

    result = run("-P", model=tmp_path / "m.gguf")

    assert result.returncode == llamacpp_serve.EX_SOFTWARE
    assert f"llamacpp_serve: llama.cpp could not load {tmp_path}/m.gguf" in result.stderr
    assert "failed to load model" in result.stderr + result.stdout
