"""Which attention backends vLLM uses, as its log tells, and what old versions refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llm_backend.errors import SetupError

HONEST_SINCE: Final = (0, 15)
"""The first version that ignores VLLM_ATTENTION_BACKEND; with older ones TORCH_SDPA is fatal."""

_DECODER: Final = (
    re.compile(r"Using (\w+) attention backend out of potential backends"),
    re.compile(r"Using AttentionBackendEnum\.(\w+) backend\."),
    re.compile(r"Using ([\w ]+?) backend on V1 engine"),
)
_IMAGES: Final = re.compile(
    r"Using (?:default )?backend AttentionBackendEnum\.(\w+) for vit attention"
)
_TAG: Final = re.compile(r":v?(\d+)\.(\d+)[\w.-]*(?:@sha256:[0-9a-f]+)?$")


@dataclass(frozen=True, slots=True)
class Attention:
    """The backends in force; None where the log says nothing.

    Attributes:
        decoder: Of the part that reads and writes text.
        images: Of the part that reads images.
    """

    decoder: str | None = None
    images: str | None = None

    def __str__(self) -> str:
        known = [f"{self.decoder} for text"] if self.decoder else []
        known += [f"{self.images} for images"] if self.images else []
        return ", ".join(known)

    def __bool__(self) -> bool:
        return bool(self.decoder or self.images)


def attention_in(log: Iterable[str]) -> Attention:
    """Read an engine's log; of several starts in it the last one counts."""
    decoder = images = None
    for line in log:
        found = next((match for pattern in _DECODER if (match := pattern.search(line))), None)
        decoder = found[1] if found else decoder
        if match := _IMAGES.search(line):
            images = match[1]
    return Attention(decoder, images)


def refusal(image: str, variable: str) -> SetupError | None:
    """Say why an image cannot run with a value of VLLM_ATTENTION_BACKEND; None where it can.

    Args:
        image: With its tag. One whose tag names no version is taken for a new one.
        variable: The value of VLLM_ATTENTION_BACKEND.
    """
    match = _TAG.search(image)
    if variable != "TORCH_SDPA" or match is None or (int(match[1]), int(match[2])) >= HONEST_SINCE:
        return None
    return SetupError(
        f"vLLM of the image {image} ends at its start with VLLM_ATTENTION_BACKEND=TORCH_SDPA.",
        hint="Put VLLM_ATTENTION_BACKEND= (empty) into .env, or take a VLLM_IMAGE from v0.15 on. "
        "Why: docs/explanation/attention.md",
    )
