"""What this machine has, and which models of the catalog it can run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_backend.cli.project import Project
from llm_backend.cli.setups import RUNTIMES
from llm_backend.config.catalog import HubWeights, LlamaCppEngine, ModelSpec, VllmEngine
from llm_backend.config.settings import Setup
from llm_backend.engines import llamacpp, plan_for
from llm_backend.errors import EngineStartFailed
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.gpu.nvml import NvmlProbe
from llm_backend.gpu.system import Probes, SystemProbe
from llm_backend.weights.store import Store
from llm_backend.wire import JSONObject


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as this machine can offer it.

    Attributes:
        id: As in the catalog.
        purpose: What it is for.
        size_mib: Size of its weights; None where nobody knows.
        runtimes: Those it declares.
        fits: Whether its devices have the memory that it reserves awake.
        downloaded: Whether its weights are here, whole and verified.
        fetchable: Whether `llm-backend download` can bring them.
        obstacle: Why this set-up cannot run it, as a sentence; None where it can.
    """

    id: str
    purpose: str
    size_mib: int | None
    runtimes: tuple[str, ...]
    fits: bool
    downloaded: bool
    fetchable: bool
    obstacle: str | None

    @property
    def ready(self) -> bool:
        """Whether it can be loaded at once."""
        return self.obstacle is None and self.downloaded

    def as_json(self) -> JSONObject:
        """Return what `--json` shows."""
        return {**asdict(self), "ready": self.ready}


class Machine:
    """This machine, read once, as the models of a project need it.

    Attributes:
        devices: The reading of each device of the catalog; None where it is not there.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._specs = project.catalog.devices
        self._store = Store(project.models_dir)
        with closing(NvmlProbe(self._specs)) as nvml:
            probes = Probes([nvml, SystemProbe(self._specs)])
            self.devices = {name: probes.read(name) for name in self._specs}

    @property
    def gpus(self) -> list[GpuSnapshot]:
        """The NVIDIA GPUs that the catalog names and this machine has."""
        found = (self.devices[name] for name, spec in self._specs.items() if spec.kind == "cuda")
        return [snapshot for snapshot in found if snapshot is not None]

    def offers(self, setup: Setup) -> dict[str, Offer]:
        """Return every model of the catalog, by id, as this machine can offer it."""
        return {spec.id: self.offer(spec, setup) for spec in self._project.catalog}

    def offer(self, spec: ModelSpec, setup: Setup) -> Offer:
        """Return one model as this machine can offer it in a set-up."""
        shortage = self._shortage(spec, setup)
        weights = spec.weights
        here = weights is None or self._store.locate(weights) is not None
        obstacle = runtime_obstacle(spec, setup) or shortage
        return Offer(
            id=spec.id,
            purpose=spec.purpose,
            size_mib=None if weights is None else self._store.size_mib(weights),
            runtimes=tuple(kind.value for kind in spec.runtimes),
            fits=shortage is None,
            downloaded=here,
            fetchable=isinstance(weights, HubWeights),
            obstacle=obstacle or self._engine_obstacle(spec, setup, here=here),
        )

    def _shortage(self, spec: ModelSpec, setup: Setup) -> str | None:
        """Say what memory a model lacks; None where it fits."""
        for name in spec.devices:
            need, have = spec.memory_mib.awake, self._memory_mib(name, setup)
            if have is None:
                return f"its device {name} is not in this machine."
            if need > have:
                return f"it needs {need} MiB on {name}, which has {have} MiB."
        return None

    def _memory_mib(self, name: str, setup: Setup) -> int | None:
        """Return what models may reserve on a device; None where it is not there."""
        snapshot, spec = self.devices[name], self._specs[name]
        if snapshot is not None:
            return spec.room_mib(snapshot.total_mib)
        # A card that only Docker sees is as large as the catalog says.
        return spec.room_mib(None) if setup == "compose" and spec.kind == "cuda" else None

    def _engine_obstacle(self, spec: ModelSpec, setup: Setup, *, here: bool) -> str | None:
        """Say what keeps a model's engine from being launched; None where nothing does."""
        if isinstance(spec.weights, HubWeights) and not here:
            return program_obstacle(spec, setup)
        runtime = next(kind for kind in spec.runtimes if kind in RUNTIMES[setup])
        try:
            plan_for(spec, self._store, runtime)
        except EngineStartFailed as error:
            return error.text
        return None


def runtime_obstacle(spec: ModelSpec, setup: Setup) -> str | None:
    """Say why no runtime of a set-up runs a model; None where one does."""
    if RUNTIMES[setup].intersection(spec.runtimes):
        return None
    return f"it runs on {' or '.join(spec.runtimes)}, which the set-up {setup} does not have."


def program_obstacle(spec: ModelSpec, setup: Setup) -> str | None:
    """Say what program an engine lacks, before gigabytes of weights are fetched for it."""
    if setup != "local":
        return None
    if isinstance(spec.engine, LlamaCppEngine):
        return llamacpp.unavailable_reason()
    if isinstance(spec.engine, VllmEngine) and not _has_vllm(spec.engine.python):
        return f"vLLM is not installed for {spec.engine.python or sys.executable}."
    return None


def _has_vllm(python: str | None) -> bool:
    if python is None:
        return importlib.util.find_spec("vllm") is not None
    return shutil.which(str(Path(python).expanduser())) is not None
