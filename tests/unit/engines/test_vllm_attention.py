"""Attention backends out of vLLM's own log lines, and the versions that refuse TORCH_SDPA."""

from __future__ import annotations

import pytest

from llm_backend.engines.vllm_attention import Attention, attention_in, refusal

# As vLLM 0.32 writes them, with what stands before.
DECODER = (
    "(EngineCore pid=97) INFO 11-21 17:44:46 [cuda.py:506] Using FLASH_ATTN attention backend out "
    "of potential backends: ['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION']."
)
CHOSEN = "INFO 11-21 17:44:46 [cuda.py:446] Using AttentionBackendEnum.FLEX_ATTENTION backend."
OLD = "INFO 06-12 09:00:00 [cuda.py:275] Using Flash Attention backend on V1 engine."
IMAGES = (
    "(EngineCore pid=97) INFO 11-21 17:44:46 [cuda.py:547] "
    "Using backend AttentionBackendEnum.TORCH_SDPA for vit attention"
)
DEFAULT = "Using default backend AttentionBackendEnum.TORCH_SDPA for vit attention"
OTHERS = [
    (
        "WARNING 11-21 17:43:42 [interface.py:1457] Unknown vLLM environment variable detected: "
        "VLLM_ATTENTION_BACKEND"
    ),
    "(Worker pid=98) INFO 11-21 17:44:43 [parallel_state.py:1906] world_size=1 backend=gloo",
    "INFO:     Application startup complete.",
]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], Attention()),
        (OTHERS, Attention()),
        ([*OTHERS, DECODER], Attention("FLASH_ATTN")),
        ([CHOSEN], Attention("FLEX_ATTENTION")),
        ([OLD], Attention("Flash Attention")),
        ([DECODER, IMAGES, *OTHERS], Attention("FLASH_ATTN", "TORCH_SDPA")),
        ([DEFAULT], Attention(None, "TORCH_SDPA")),
        ([DECODER, IMAGES, CHOSEN], Attention("FLEX_ATTENTION", "TORCH_SDPA")),
    ],
)
def test_the_log_tells_the_backends(lines: list[str], found: Attention) -> None:
    assert attention_in(lines) == found


def test_as_text() -> None:
    assert (
        str(Attention("FLASH_ATTN", "TORCH_SDPA")) == "FLASH_ATTN for text, TORCH_SDPA for images"
    )
    assert not Attention()


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai:v0.14.1",
        "vllm/vllm-openai:v0.9.2",
        "localhost:5000/vllm/vllm-openai:0.11.0",
        f"vllm/vllm-openai:v0.10.0-x86_64@sha256:{'0' * 64}",
    ],
)
def test_old_images_are_refused_by_name(image: str) -> None:
    error = refusal(image, "TORCH_SDPA")

    assert error is not None
    assert image in error.message
    assert "VLLM_ATTENTION_BACKEND=" in str(error.hint)
    assert refusal(image, "") is None
    assert refusal(image, "FLASH_ATTN") is None


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai:v0.15.0",
        "vllm/vllm-openai:v0.33.0",
        "vllm/vllm-openai:v1.0",
        "localhost:5000/vllm/vllm-openai",
        "vllm/vllm-openai:nightly",
    ],
)
def test_new_and_unknown_ones_are_not(image: str) -> None:
    assert refusal(image, "TORCH_SDPA") is None
