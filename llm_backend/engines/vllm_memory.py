"""Whether a model of vLLM fits on a card: weights, working memory, and what is left for its cache.

Plain arithmetic. vLLM takes `gpu-memory-utilization` of the card; what weights and working memory
leave of it becomes the KV cache, and a start fails where one request of `max-model-len` tokens
would not fit into that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TEXT_OVERHEAD_MIB: Final = 1372
"""CUDA's context, activations and CUDA graphs: an estimate, not a measurement."""
VISION_OVERHEAD_MIB: Final = 246
"""What trying out the largest images adds, with the limits of config/engines/qwen-vl.yaml."""
DEFAULT_UTILIZATION: Final = 0.92
"""vLLM's own, from 0.30 on."""
MOST_UTILIZATION: Final = 0.95
STEP: Final = 1024
"""Tokens by which a shorter context is advised."""
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Geometry:
    """What of a model decides how much memory a token takes.

    Attributes:
        layers: Layers of the decoder.
        kv_heads: Heads for keys and values, in each layer.
        head_dim: Numbers in each head.
    """

    layers: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Geometry | None:
        """Read a model's `config.json`; None where it says too little."""
        text = config.get("text_config")
        values = {**config, **(text if isinstance(text, dict) else {})}
        try:
            layers, heads = int(values["num_hidden_layers"]), int(values["num_attention_heads"])
            kv_heads = int(values.get("num_key_value_heads") or heads)
            head_dim = int(values.get("head_dim") or int(values["hidden_size"]) // heads)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return cls(layers, kv_heads, head_dim)

    def token_bytes(self, cache_dtype: str) -> int:
        """Return what one token takes in the KV cache, in bytes."""
        width = 1 if cache_dtype.startswith("fp8") else 2
        return 2 * self.layers * self.kv_heads * self.head_dim * width


@dataclass(frozen=True, slots=True)
class Demand:
    """What one engine asks of its card.

    Attributes:
        weights_mib: Its weights, in MiB.
        vision: Whether it reads images.
        utilization: `gpu-memory-utilization`.
        max_model_len: Longest request, in tokens.
        geometry: None while its `config.json` is not here.
        cache_dtype: `kv-cache-dtype`.
    """

    weights_mib: int
    vision: bool
    utilization: float
    max_model_len: int
    geometry: Geometry | None
    cache_dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Fit:
    """How a demand fits on a card; sizes in MiB.

    Attributes:
        share: What vLLM takes of the card.
        overhead: What it needs besides weights and cache.
        cache: What is left for the KV cache; negative where nothing is.
        tokens: How many tokens that holds; None where the geometry is not known.
        advice: What to change; None where it fits.
    """

    share: int
    overhead: int
    cache: int
    tokens: int | None
    advice: str | None


def fit(demand: Demand, total_mib: int, free_mib: int | None = None) -> Fit:
    """Compute how a model fits.

    Args:
        demand: What it asks.
        total_mib: All of the card's memory.
        free_mib: What other programs leave of it; None where nobody knows, or an engine has it.
    """
    share = math.floor(total_mib * demand.utilization)
    overhead = TEXT_OVERHEAD_MIB + (VISION_OVERHEAD_MIB if demand.vision else 0)
    cache = share - demand.weights_mib - overhead
    tokens = None
    if demand.geometry is not None:
        tokens = max(0, cache * _MIB // demand.geometry.token_bytes(demand.cache_dtype))
    advice = _crowded(share, total_mib, free_mib) or _too_small(demand, cache, tokens)
    return Fit(share, overhead, cache, tokens, advice)


def _crowded(share: int, total_mib: int, free_mib: int | None) -> str | None:
    """Advise where other programs have too much of the card: vLLM looks before it starts."""
    if free_mib is None or share <= free_mib:
        return None
    most = math.floor(free_mib / total_mib * 100) / 100
    return (
        f"only {free_mib} MiB of the card are free, and vLLM would take {share}: "
        f"end the other programs, or set gpu-memory-utilization to {most:.2f}"
    )


def _too_small(demand: Demand, cache: int, tokens: int | None) -> str | None:
    if cache <= 0:
        return (
            "weights and working memory leave nothing for the cache: take weights of fewer bits, "
            f"or set gpu-memory-utilization to {MOST_UTILIZATION} if nothing else uses the card"
        )
    if tokens is None or tokens >= demand.max_model_len:
        return None
    shorter = tokens // STEP * STEP
    way = f"set max-model-len to {shorter} or less" if shorter else "take weights of fewer bits"
    more = "" if demand.cache_dtype.startswith("fp8") else ", or kv-cache-dtype to fp8"
    return f"one request of {demand.max_model_len} tokens does not fit: {way}{more}"
