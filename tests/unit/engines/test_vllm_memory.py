"""The arithmetic of a card: the three models of the catalog on 16 GB, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_backend.engines.vllm_memory import Demand, Geometry, fit

CARD = 16303
KIB = 1024
SEVEN = Geometry(layers=28, kv_heads=4, head_dim=128)
FOURTEEN = Geometry(layers=48, kv_heads=8, head_dim=128)
VL = Demand(6605, True, 0.90, 16384, SEVEN)
QWEN_14B = Demand(9513, False, 0.90, 16384, FOURTEEN)
CODER = Demand(5315, False, 0.90, 32768, SEVEN)


def test_a_tokens_size() -> None:
    assert SEVEN.token_bytes("auto") == 56 * KIB
    assert FOURTEEN.token_bytes("auto") == 192 * KIB
    assert FOURTEEN.token_bytes("fp8") == 96 * KIB


@pytest.mark.parametrize(
    ("demand", "cache_gib", "tokens"),
    [(VL, 6.3, 118_000), (CODER, 7.8, 147_000), (QWEN_14B, 3.7, 20_000)],
)
def test_the_three_models_fit_on_16_gb(demand: Demand, cache_gib: float, tokens: int) -> None:
    result = fit(demand, CARD, free_mib=CARD - 300)

    assert result.advice is None
    assert result.share == 14672
    assert result.cache / KIB == pytest.approx(cache_gib, abs=0.1)
    assert result.tokens == pytest.approx(tokens, rel=0.02)


def test_a_context_that_does_not_fit_is_shortened() -> None:
    result = fit(replace(QWEN_14B, max_model_len=32768), CARD)

    assert result.advice == (
        "one request of 32768 tokens does not fit: set max-model-len to 19456 or less, "
        "or kv-cache-dtype to fp8"
    )
    assert fit(replace(QWEN_14B, max_model_len=19456), CARD).advice is None
    assert fit(replace(QWEN_14B, max_model_len=32768, cache_dtype="fp8_e5m2"), CARD).advice is None


def test_weights_that_fill_the_card_leave_nothing() -> None:
    result = fit(replace(CODER, weights_mib=14531), CARD)

    assert (result.cache < 0, result.tokens) == (True, 0)
    assert "take weights of fewer bits" in str(result.advice)


def test_a_cache_of_a_few_tokens_is_no_context() -> None:
    demand = replace(QWEN_14B, weights_mib=14672 - 1372 - 100)

    assert "take weights of fewer bits, or kv-cache-dtype to fp8" in str(fit(demand, CARD).advice)


def test_other_programs_on_the_card_come_first() -> None:
    result = fit(QWEN_14B, CARD, free_mib=13800)

    assert result.advice == (
        "only 13800 MiB of the card are free, and vLLM would take 14672: "
        "end the other programs, or set gpu-memory-utilization to 0.84"
    )
    assert fit(replace(QWEN_14B, utilization=0.84), CARD, free_mib=13800).share <= 13800


def test_without_a_geometry_the_cache_is_known_its_tokens_are_not() -> None:
    result = fit(replace(QWEN_14B, geometry=None, max_model_len=10**6), CARD)

    assert (result.tokens, result.advice) == (None, None)
    assert result.cache == 3787


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 28, "num_attention_heads": 28, "hidden_size": 3584,
         "num_key_value_heads": 4},
        {"num_hidden_layers": 28, "num_attention_heads": 28, "head_dim": 128, "hidden_size": 1,
         "num_key_value_heads": 4},
        {"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 28,
         "num_attention_heads": 28, "hidden_size": 3584, "num_key_value_heads": 4}},
    ],
)  # fmt: skip
def test_a_config_tells_the_geometry(config: dict[str, object]) -> None:
    assert Geometry.of(config) == SEVEN


@pytest.mark.parametrize(
    "config", [{}, {"num_hidden_layers": "x"}, {"num_hidden_layers": 1, "num_attention_heads": 0}]
)
def test_one_that_says_too_little_tells_nothing(config: dict[str, object]) -> None:
    assert Geometry.of(config) is None


def test_without_kv_heads_every_head_has_its_own() -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}

    assert Geometry.of(config) == Geometry(2, 4, 16)
