"""A real card for the tests: what is free on it, and models that fit it as they fit 16 GB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from llm_backend.config.catalog import ModelSpec
from llm_backend.config.device import DeviceSpec
from llm_backend.engines import kind_of, plan_for
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.gpu.nvml import NvmlProbe
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.switching.feed import Feed
from llm_backend.switching.history import DoubtFile, History
from llm_backend.switching.keeper import EngineKeeper, Launch, Tools
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.watch import WatchRules
from llm_backend.weights.store import Store
from tests.gpu.results import Results

DEVICE = "gpu0"
AWAKE_MIB = 12_000
"""What each model takes: a large card is used as if it were the reference's."""
MOST_SHARE = 0.75
"""Of a smaller card: a sleeper's residue has to fit beside the one that is awake."""
ASLEEP_MIB = 2048
START_S = 900.0
WEIGHTS_MIB = {"qwen-vl": 6605, "qwen-14b": 9513, "qwen-coder": 5315}
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen-vl": {
        "limit-mm-per-prompt": '{"image": 1, "video": 0}',
        "mm-processor-kwargs": '{"max_pixels": 1003520}',
        "mm-encoder-attn-backend": "TORCH_SDPA",
    },
    "qwen-14b": {},
    "qwen-coder": {},
}
MAKER = Path(__file__).with_name("make_shaped.py")


@dataclass(frozen=True)
class Card:
    """The first CUDA device, with vLLM for it.

    Attributes:
        python: The interpreter that has vLLM.
        folder: Where models are made.
        probe: Reads the device.
        results: Where figures go.
    """

    python: Path
    folder: Path
    probe: NvmlProbe
    results: Results

    def read(self) -> GpuSnapshot:
        reading = self.probe.read(DEVICE)
        assert reading is not None, "NVML reads the device no more"
        return reading

    @property
    def share(self) -> float:
        """What `gpu-memory-utilization` says."""
        return round(min(MOST_SHARE, AWAKE_MIB / self.read().total_mib), 3)

    def entry(self, name: str, residency: str = "stop") -> dict[str, Any]:
        """Return a catalog entry of a model with this shape."""
        options = {
            "load-format": "dummy",
            "gpu-memory-utilization": self.share,
            "max-model-len": 4096,
            "max-num-seqs": 16,
            "shutdown-timeout": 0,
            **OPTIONS[name],
        }
        return {
            "runtimes": ["process"],
            "capabilities": ["chat", "completions"],
            "devices": [DEVICE],
            "weights": {"source": "path", "path": str(self.made(name))},
            "engine": {"kind": "vllm", "python": str(self.python), "options": options},
            "residency": residency,
            "memory_mib": {
                "awake": int(self.share * self.read().total_mib),
                "asleep-1": ASLEEP_MIB,
                "asleep-2": ASLEEP_MIB,
                "host": WEIGHTS_MIB[name],
            },
            "timeouts": {"start_s": START_S, "memory_s": 60, "sleep_s": 120, "wake_s": 300},
        }

    def made(self, name: str) -> Path:
        """Return the directory of a model with this shape; make it unless it is there."""
        folder = self.folder / name
        if not (folder / "config.json").exists():
            command = [str(self.python), str(MAKER), name, str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=START_S)
        return folder

    @asynccontextmanager
    async def keeper(self, name: str, residency: str = "stop") -> AsyncIterator[EngineKeeper]:
        """Yield who keeps the engine of a model; in the end there is none."""
        root = self.folder / f"state-{name}-{residency}"
        spec = ModelSpec.model_validate({"id": name, **self.entry(name, residency)})
        runtime = ProcessRuntime(root, root / "locks")
        store, probe = Store(root / "models"), EngineProbe()
        doubts = DoubtFile(root / "doubts.json")
        doubts.load()
        gate, history = MemoryGate(self.probe), History(root / "history.json")
        tools = Tools(gate, probe, Feed(), history, WatchRules(), doubts)
        keeper = EngineKeeper(
            Launch(spec, kind_of(spec), runtime, lambda _: plan_for(spec, store)), tools
        )
        try:
            yield keeper
        finally:
            await keeper.bring_down()
            await runtime.close()
            await probe.close()


def found_vllm(python: Path) -> str:
    """Return the version of the vLLM for CUDA that an interpreter has; empty where it has none."""
    program = (
        "import importlib.metadata as m, torch;"
        "print(m.version('vllm') if torch.version.cuda and torch.cuda.is_available() else '')"
    )
    command = [str(python), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else ""


def interpreters(root: Path, named: str | None) -> list[Path]:
    """Return where vLLM may be: where it was said to be, else where it usually is."""
    usual = (root / ".venv-vllm-gpu/bin/python", Path(sys.executable))
    return [path for path in ([Path(named)] if named else usual) if path.exists()]


def driver_version() -> str:
    """Return the version of the NVIDIA driver; needs NVML, initialised."""
    return str(pynvml.nvmlSystemGetDriverVersion())


def new_probe() -> NvmlProbe:
    """Return what reads the first CUDA device."""
    return NvmlProbe({DEVICE: DeviceSpec(kind="cuda", index=0)})
