"""Makes a random Qwen2 model of a few hundred KB: a real architecture that knows nothing.

    .venv-vllm/bin/python tests/models/make_tiny_qwen2.py DIRECTORY [WIDTH LAYERS]

It needs torch, transformers and tokenizers, which come with vLLM. The same seed gives the same
weights, so its answers at temperature 0 are stable.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1024
CONTEXT = 2048
END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "One card has room for one model, and the people who share it want three of them.",
    "Whoever asks for a model that sleeps waits until the one that is awake has finished.",
    "Then the memory is given back, the next weights are read, and the answer begins.",
    "system user assistant question answer token stream hello world again and again",
    "0 1 2 3 4 5 6 7 8 9 10 20 50 100 1000 def return import class for while if else",
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=SPECIAL[0])
    fast.chat_template = TEMPLATE
    return fast


def make_model(
    tokenizer: PreTrainedTokenizerFast, width: int = 64, layers: int = 2
) -> Qwen2ForCausalLM:
    """Build the network with random weights; `width` is a multiple of 64."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    )
    return Qwen2ForCausalLM(config).to(torch.bfloat16)


def main(directory: Path, *size: int) -> None:
    """Write tokenizer and weights into a directory."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(directory)
    make_model(tokenizer, *size).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
