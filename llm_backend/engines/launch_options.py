"""Launch options that an operator gives for one run of an engine, over those of the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from llm_backend.config.catalog import LlamaCppEngine, ModelSpec, RuntimeKind, VllmEngine
from llm_backend.errors import Conflict, InvalidRequest, NotSupported

QUANTIZATIONS: Final = (
    "awq",
    "auto_awq",
    "awq_marlin",
    "auto_gptq",
    "gptq",
    "gptq_marlin",
    "bitsandbytes",
    "compressed-tensors",
    "deepseek_v4_fp8",
    "experts_int8",
    "fp8",
    "fp8_per_block",
    "fp8_per_channel",
    "fp8_per_tensor",
    "gguf",
    "gpt_oss_mxfp4",
    "humming",
    "inc",
    "int8_per_channel_weight_only",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mixed",
    "modelopt_mxfp8",
    "moe_wna16",
    "mxfp4",
    "mxfp8",
    "nvfp4_per_token",
    "quark",
    "torchao",
)
"""What vLLM takes as `quantization`; of bitsandbytes and gguf the latest need a plugin for it."""

DROPPED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aqlm": "awq or gptq",
        "auto-round": "inc",
        "bitblas": "gptq",
        "deepspeedfp": "fp8",
        "fbgemm_fp8": "fp8",
        "fp_quant": "compressed-tensors",
        "gptq_bitblas": "gptq",
        "gptq_marlin_24": "compressed-tensors",
        "hqq": "awq or gptq",
        "ipex": "awq or gptq",
        "marlin": "gptq_marlin",
        "neuron_quant": "fp8",
        "petit_nvfp4": "modelopt_fp4",
        "ptpc_fp8": "fp8_per_channel",
        "qqq": "compressed-tensors",
        "squeezellm": "awq or gptq",
        "tpu_int8": "compressed-tensors",
    }
)
"""What vLLM once took as `quantization` and does not any more, and what to take instead."""

MAKE_ANEW: Final = "llm-backend stop, then: llm-backend start --setup compose"
"""What makes containers anew."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Options for the next start of an engine; None leaves what the catalog says.

    Attributes:
        max_model_len: Longest prompt and answer together, in tokens.
        gpu_memory_utilization: Share of the device that vLLM takes.
        quantization: How the weights are quantised, in vLLM's words.
        tensor_parallel_size: Over how many devices the model is spread.
    """

    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    quantization: str | None = None
    tensor_parallel_size: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not left to the catalog."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __bool__(self) -> bool:
        """Return whether any is given."""
        return bool(self.given)


CATALOG: Final = LaunchOptions()
"""No options: everything is as the catalog says."""


def altered(spec: ModelSpec, options: LaunchOptions, runtime: RuntimeKind) -> ModelSpec:
    """Return the entry of a model with other launch options.

    Args:
        spec: As in the catalog.
        options: What is to be different.
        runtime: What starts the engine.

    Raises:
        Conflict: the engine runs in a container, which was made with its options.
        NotSupported: the engine has no such option.
        InvalidRequest: vLLM knows no such quantisation, or the model has too few devices.
    """
    engine = spec.engine
    if not options:
        return spec
    if runtime is RuntimeKind.DOCKER:
        raise _made_before(spec)
    if isinstance(engine, VllmEngine):
        _check_quantization(options)
        _check_devices(spec, options)
        ours = {name.replace("_", "-"): value for name, value in options.given.items()}
        return _with(spec, options={**engine.options, **ours})
    if isinstance(engine, LlamaCppEngine):
        _only_length(spec, options)
        return _with(spec, context=options.max_model_len)
    raise NotSupported(
        f"The launch options of {spec.id} are fixed: its engine is of the kind {engine.kind}.",
        hint=f"They are in config/models.yaml, under models.{spec.id}.engine.",
        param=next(iter(options.given), None),
    )


def _with(spec: ModelSpec, **fields: Any) -> ModelSpec:
    return spec.model_copy(update={"engine": spec.engine.model_copy(update=fields)})


def _made_before(spec: ModelSpec) -> Conflict:
    file = getattr(spec.engine, "config_file", None) or f"config/engines/{spec.id}.yaml"
    return Conflict(
        f"The container of {spec.id} was made with its launch options, and a load cannot change "
        "them.",
        hint=f"Edit {file}, then make it anew: {MAKE_ANEW}",
    )


def _check_quantization(options: LaunchOptions) -> None:
    name = options.quantization
    if name is None or name in QUANTIZATIONS:
        return
    if (instead := DROPPED.get(name.lower())) is not None:
        raise InvalidRequest(
            f"vLLM has dropped the quantisation {name!r}.",
            hint=f"Take weights of another one: {instead}.",
            param="quantization",
        )
    raise InvalidRequest(
        f"vLLM knows no quantisation {name!r:.60}.",
        hint=f"It knows: {', '.join(QUANTIZATIONS)}.",
        param="quantization",
    )


def _check_devices(spec: ModelSpec, options: LaunchOptions) -> None:
    size = options.tensor_parallel_size or 1
    if size > max(1, len(spec.devices)):
        raise InvalidRequest(
            f"tensor_parallel_size is {size}, and {spec.id} has {len(spec.devices)} "
            f"({', '.join(spec.devices)}).",
            hint=f"Name as many devices in config/models.yaml, under models.{spec.id}.devices.",
            param="tensor_parallel_size",
        )


def _only_length(spec: ModelSpec, options: LaunchOptions) -> None:
    others = [name for name in options.given if name != "max_model_len"]
    if not others:
        return
    hint = "It takes max_model_len."
    if "quantization" in others:
        hint = f"The file of its weights decides that: models.{spec.id}.weights in the catalog."
    raise NotSupported(
        f"llama.cpp, the engine of {spec.id}, has no option {others[0]}.",
        hint=hint,
        param=others[0],
    )
