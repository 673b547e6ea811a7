"""Makes all of a model but its weights: shaped like one of the three of config/models.yaml.

    PYTHON-WITH-VLLM tests/gpu/make_shaped.py NAME DIRECTORY

For vLLM with `--load-format dummy`, which fills the weights with random numbers. The tokenizer has
as many words as the real one, so that every token that comes out has a text. It needs tokenizers
and transformers, which come with vLLM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 152_064
END = "<|im_end|>"
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
FIRST_SPECIAL = VOCABULARY - len(SPECIAL)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "torch_dtype": "float16",
    "eos_token_id": FIRST_SPECIAL + SPECIAL.index(END),
    "bos_token_id": FIRST_SPECIAL,
}
TEXT = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
SMALL = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
}
LARGE = {
    "hidden_size": 5120,
    "intermediate_size": 13_824,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "in_chans": 3,
    "hidden_act": "silu",
    "fullatt_block_indexes": [7, 15, 23, 31],
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
    "window_size": 112,
    "tokens_per_second": 2,
}
IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 1_003_520,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def _id(token: str) -> int:
    return FIRST_SPECIAL + SPECIAL.index(token)


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen-coder": {**COMMON, **TEXT, **SMALL, "quantization_config": AWQ},
    "qwen-14b": {**COMMON, **TEXT, **LARGE, "quantization_config": AWQ},
    "qwen-vl": {
        **COMMON,
        **SMALL,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": VISION,
        "image_token_id": _id("<|image_pad|>"),
        "video_token_id": _id("<|video_pad|>"),
        "vision_start_token_id": _id("<|vision_start|>"),
        "vision_end_token_id": _id("<|vision_end|>"),
        "vision_token_id": _id("<|vision_pad|>"),
        "quantization_config": {**AWQ, "modules_to_not_convert": ["visual"]},
    },
}
"""What `config.json` of each model says of its shape."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that reads bytes, and knows a word for every other number."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"w{n}" for n in range(FIRST_SPECIAL - len(alphabet)))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[3:],
    )
    fast.chat_template = TEMPLATE
    return fast


def main(name: str, directory: Path) -> None:
    """Write what vLLM reads of a model before its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(CONFIGS[name], indent=1))
    if "vision_config" in CONFIGS[name]:
        (directory / "preprocessor_config.json").write_text(json.dumps(IMAGES, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
