"""Random models that look at images, of real architectures, saved as Hugging Face repositories.

Their chat templates write what the vendors' write. The tokenizer is that of tiny_model.py with the
family's own tokens for images. Also images to show them.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny_model import SMALL, VOCAB_SIZE, files_of, save_byte_tokenizer

FAMILIES = ("gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

_BEGIN, _END, _IMAGE, _VIDEO = range(VOCAB_SIZE, VOCAB_SIZE + 4)
_TOKENS_OF_GEMMA = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_TOKENS_OF_QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# Ends of their own, since tied ones make greedy replies repeat what they read.
_OWN_HEAD = {"tie_word_embeddings": False}
_TEXT = {**SMALL, **_OWN_HEAD, "vocab_size": VOCAB_SIZE + 4, "bos_token_id": None}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_TEMPLATE_OF_GEMMA = """\
{% for message in messages %}<turn>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}\
{% for item in message['content'] %}{% if item['type'] == 'image' %}<start_of_image>\
{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}\
{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<turn>model
{% endif %}"""
_TEMPLATE_OF_QWEN = """\
{% for message in messages %}<turn>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}\
<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}\
{% endif %}{% endfor %}{% endif %}{{ '\n' }}{% endfor %}\
{% if add_generation_prompt %}<turn>assistant
{% endif %}"""


def save_tiny_vision_model(folder: Path, family: str, seed: int = 0) -> dict[str, str]:
    """Make a random model of a family; name -> path of its files."""
    torch.manual_seed(seed)
    is_gemma = family == "gemma3"
    config, processor = _gemma3() if is_gemma else _qwen(family)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_byte_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = _TOKENS_OF_GEMMA if is_gemma else _TOKENS_OF_QWEN
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in texts])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = {"chat_template": _TEMPLATE_OF_GEMMA if is_gemma else _TEMPLATE_OF_QWEN}
    (folder / "chat_template.json").write_text(json.dumps(template))
    return files_of(folder)


def picture(width: int = 40, height: int = 20, seed: int = 1, kind: str = "PNG") -> bytes:
    """The file of a random image."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return encoded(Image.fromarray(pixels.numpy()), kind)


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def _gemma3() -> tuple[Any, Any]:
    """An image is 9 tokens; the sliding window is shorter than that."""
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3Config(
        text_config={**_TEXT, "sliding_window": 8, "layer_types": layers},
        vision_config={**_TOWER, "image_size": 42, "patch_size": 7, "num_channels": 3},
        mm_tokens_per_image=9,
        boi_token_index=_BEGIN,
        eoi_token_index=_END,
        image_token_index=_IMAGE,
        **_OWN_HEAD,
    )
    return config, Gemma3ImageProcessorPil(size={"height": 42, "width": 42})


def _qwen(family: str) -> tuple[Any, Any]:
    """An image has a token for each 8 x 8 pixels, and 16 tokens at the most."""
    shape: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
    of_qwen3 = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    towers: dict[str, dict[str, Any]] = {
        "qwen3_vl": of_qwen3,
        "qwen3_vl_moe": of_qwen3,
        "qwen2_vl": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
        "qwen2_5_vl": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "out_hidden_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
    }
    rope: dict[str, Any] = {"type": "mrope", "mrope_section": [1, 1, 2]}
    if family.startswith("qwen3"):
        rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = transformers.AutoConfig.for_model(
        family,
        text_config={**_TEXT, **_EXPERTS, "rope_scaling": rope},
        vision_config={**shape, **towers[family], "temporal_patch_size": 2},
        image_token_id=_IMAGE,
        video_token_id=_VIDEO,
        vision_start_token_id=_BEGIN,
        vision_end_token_id=_END,
        **_OWN_HEAD,
    )
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=1024)
    return config, processor
