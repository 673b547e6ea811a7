"""A catalog of one model that is in none: `llm-backend serve --model-path`."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llm_backend.cli.download import bring
from llm_backend.cli.found_weights import PRECISIONS, FoundWeights, find_weights
from llm_backend.cli.machine import program_obstacle
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from llm_backend.config import Catalog
from llm_backend.config.catalog import (
    Capability,
    HubWeights,
    LlamaCppEngine,
    ModelSpec,
    RuntimeKind,
    VllmEngine,
)
from llm_backend.config.device import DeviceSpec
from llm_backend.engines.launch_options import CATALOG, LaunchOptions, altered
from llm_backend.errors import InvalidRequest, SetupError
from llm_backend.gpu.nvml import NvmlProbe
from llm_backend.weights.store import Store

DEFAULT_CONTEXT: Final = 4096
ALL_LAYERS: Final = 999
VLLM_WORDS: Final = {"4bit": "bitsandbytes", "8bit": "fp8", "none": None}
"""What vLLM calls the quantisations that every engine is asked for in the same words."""

_DEVICE: Final = re.compile(r"auto|cpu|cuda(?::(\d{1,2}))?")
_TEXT: Final = (
    Capability.CHAT,
    Capability.COMPLETIONS,
    Capability.RESPONSES,
    Capability.MESSAGES,
    Capability.TOKENIZE,
)
_NOT_IN_AN_ID: Final = re.compile(r"[^A-Za-z0-9._:/-]+")


@dataclass(frozen=True, slots=True)
class OneOff:
    """What to serve.

    Attributes:
        source: A path, or a repository of the model hub.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        options: The engine's launch options; `quantization` may be `4bit`, `8bit` or `none` too.
    """

    source: str
    device: str = "auto"
    options: LaunchOptions = CATALOG

    @property
    def precision(self) -> str | None:
        """The quantisation, where it is one that every engine is asked for in the same words."""
        return self.options.quantization if self.options.quantization in PRECISIONS else None


def one_off(terminal: Terminal, project: Project, wish: OneOff) -> Catalog:
    """Return a catalog of one model, once its weights are here.

    Args:
        terminal: Shows how a download comes on.
        project: Where weights are kept; its catalog may name the interpreter that has vLLM.
        wish: What to serve.

    Raises:
        SetupError: it cannot be run here, or the weights could not be fetched.
        InvalidRequest: an option makes no sense; says which.
    """
    store = Store(project.models_dir)
    devices = _devices(wish)
    found = find_weights(wish.source, wish.precision, store)
    spec = _llamacpp(found, wish, devices) if found.is_gguf else _vllm(found, wish, project)
    spec = spec.model_copy(update={"devices": tuple(devices)})
    spec = altered(spec, _options(found, wish), RuntimeKind.PROCESS)
    _refuse_without_program(spec)
    if isinstance(found.weights, HubWeights):
        bring(terminal, spec.id, found.weights, store)
    if not found.is_gguf:
        spec = _described(spec, store.locate(found.weights))
    return Catalog(devices=devices, models={spec.id: spec}, default=(spec.id,))


def _devices(wish: OneOff) -> dict[str, DeviceSpec]:
    """Return the devices by name: as many as the model is spread over."""
    match = _DEVICE.fullmatch(wish.device)
    if match is None:
        raise InvalidRequest(
            f"There is no device {wish.device!r}.", hint="It is auto, cpu, cuda or cuda:N."
        )
    size = wish.options.tensor_parallel_size or 1
    cuda = wish.device.startswith("cuda") or (wish.device == "auto" and _has_gpu())
    if not cuda and size > 1:
        raise InvalidRequest(f"A model is spread over {size} devices on GPUs only.")
    if not cuda:
        return {"cpu": DeviceSpec(kind="cpu")}
    first = int(match[1] or 0)
    # Nobody else is to be woken beside it: the engine may take what it can get.
    return {
        f"gpu{index}": DeviceSpec(kind="cuda", index=index, headroom_mib=0, ceiling=1.0)
        for index in range(first, first + size)
    }


def _has_gpu() -> bool:
    with closing(NvmlProbe({"gpu": DeviceSpec()})) as probe:
        return probe.read("gpu") is not None


def _llamacpp(found: FoundWeights, wish: OneOff, devices: dict[str, DeviceSpec]) -> ModelSpec:
    on_gpu = "cpu" not in devices
    context = wish.options.max_model_len or DEFAULT_CONTEXT
    engine = LlamaCppEngine(
        kind="llama.cpp", context=context, gpu_layers=ALL_LAYERS if on_gpu else 0
    )
    has_eyes = isinstance(found.weights, HubWeights) and found.weights.companion is not None
    return ModelSpec(
        id=_id_of(found.name),
        runtimes=(RuntimeKind.PROCESS,),
        engine=engine,
        weights=found.weights,
        capabilities=(*_TEXT, *((Capability.VISION,) if has_eyes else ())),
        max_model_len=context,
        concurrency=1,
    )


def _vllm(found: FoundWeights, wish: OneOff, project: Project) -> ModelSpec:
    return ModelSpec(
        id=_id_of(found.name),
        runtimes=(RuntimeKind.PROCESS,),
        engine=VllmEngine(kind="vllm", python=_interpreter(project)),
        weights=found.weights,
        capabilities=_TEXT,
        max_model_len=wish.options.max_model_len,
        environment=_visible(wish.device),
    )


def _id_of(name: str) -> str:
    """Return a name as clients may ask for it."""
    return _NOT_IN_AN_ID.sub("-", name).lstrip("._:/-")[:96] or "model"


def _visible(device: str) -> dict[str, str]:
    """Let vLLM see the GPU that is named; by default it takes the first ones."""
    number = device.partition(":")[2]
    if not number:
        return {}
    # By their places on the bus, as nvidia-smi counts.
    return {"CUDA_VISIBLE_DEVICES": number, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _interpreter(project: Project) -> str | None:
    """Return the interpreter that the catalog's vLLM runs on; None where it names none."""
    engines = (spec.engine for spec in project.catalog)
    return next((e.python for e in engines if isinstance(e, VllmEngine) and e.python), None)


def _options(found: FoundWeights, wish: OneOff) -> LaunchOptions:
    """Return the launch options in the words of the engine."""
    if wish.precision is None:
        return wish.options
    # Of GGUF weights the file was chosen by it.
    word = None if found.is_gguf else VLLM_WORDS[wish.precision]
    return replace(wish.options, quantization=word)


def _refuse_without_program(spec: ModelSpec) -> None:
    """Say what engine is missing before gigabytes are fetched for it."""
    obstacle = program_obstacle(spec, "local")
    if obstacle is not None:
        raise SetupError(f"{spec.id} cannot run here: {obstacle}", hint="See: llm-backend doctor")


def _described(spec: ModelSpec, folder: Path | None) -> ModelSpec:
    """Return the entry with the capabilities that the files of the model show."""
    if folder is None:
        return spec
    if (folder / "modules.json").exists():  # sentence-transformers
        return spec.model_copy(
            update={"capabilities": (Capability.EMBEDDINGS, Capability.TOKENIZE)}
        )
    if "vision_config" not in _read(folder / "config.json"):
        return spec
    return spec.model_copy(update={"capabilities": (*_TEXT, Capability.VISION)})


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {error}.") from None
    return value if isinstance(value, dict) else {}
