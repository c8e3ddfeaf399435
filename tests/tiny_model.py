"""Two-layer random models of real architectures, saved as Hugging Face repositories.

The tokenizer has one token for each byte and three special ones, so any text is a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BOS, EOS, PAD = 256, 257, 258
VOCAB_SIZE = 259

SMALL: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}


def save_tiny_model(
    folder: Path, model_type: str = "llama", seed: int = 0, **settings: Any
) -> dict[str, str]:
    """Make a random model of `model_type` with its tokenizer; name -> path of its files."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Large enough that greedy replies are varied and every term of a formula shows.
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    save_byte_tokenizer(folder)
    return files_of(folder)


def save_byte_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for text in ("<bos>", "<eos>", "<pad>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: str(path) for path in folder.iterdir() if path.is_file()}
