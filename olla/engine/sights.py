"""Sight: how a family of models writes images, and how many tokens one is.

A family is a function here and a line in `_SIGHTS`. Knows a repository's settings, no pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from olla.errors import FormatError


@dataclass(frozen=True, slots=True)
class Sight:
    """A template writes `marker` for an image, inside `wrapped`. In the marker's place the model
    reads `before`, `image_token` as many times as `num_tokens` says, and `after`.

    `num_tokens` takes height and width. If `is_whole`, the tokens of an image see each other in
    both directions. `grid_key`: where the image processor tells rows and columns of patches,
    `merged` of which on each side are a token. `settings` are the processor's.
    """

    marker: str
    wrapped: str
    image_token: str
    image_token_id: int
    num_tokens: Callable[[int, int], int]
    is_whole: bool = False
    grid_key: str = ""
    merged: int = 1
    before: str = ""
    after: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def sight_of(config: Any, processor: Any, tokenizer: Tokenizer) -> Sight:
    """The way of a repository's family, of those in `formats.architectures.SEEING`.

    Raises:
        FormatError: its tokenizer lacks a token that stands for images.
    """
    return _SIGHTS[config.model_type](config, processor, tokenizer)


def _gemma3(config: Any, processor: Any, tokenizer: Tokenizer) -> Sight:
    begin, end, image = (
        _token(tokenizer, number)
        for number in (config.boi_token_index, config.eoi_token_index, config.image_token_index)
    )
    return Sight(
        marker=begin,
        wrapped=begin,
        image_token=image,
        image_token_id=config.image_token_index,
        num_tokens=lambda height, width: int(config.mm_tokens_per_image),
        is_whole=True,
        before=f"\n\n{begin}",
        after=f"{end}\n\n",
        settings={"do_pan_and_scan": False},
    )


def _qwen2_vl(config: Any, processor: Any, tokenizer: Tokenizer) -> Sight:
    begin, end, image = (
        _token(tokenizer, number)
        for number in (
            config.vision_start_token_id,
            config.vision_end_token_id,
            config.image_token_id,
        )
    )
    side = processor.merge_size

    def num_tokens(height: int, width: int) -> int:
        return int(processor.get_number_of_image_patches(height, width) // side**2)

    return Sight(
        marker=image,
        wrapped=begin + image + end,
        image_token=image,
        image_token_id=config.image_token_id,
        num_tokens=num_tokens,
        grid_key="image_grid_thw",
        merged=side,
    )


def _token(tokenizer: Tokenizer, number: int) -> str:
    text = tokenizer.id_to_token(number)
    if text is None:
        raise FormatError(f"the tokenizer has no token {number}, which stands for images")
    return str(text)


_SIGHTS: Mapping[str, Callable[[Any, Any, Tokenizer], Sight]] = {
    "gemma3": _gemma3,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_vl,
    "qwen3_vl": _qwen2_vl,
    "qwen3_vl_moe": _qwen2_vl,
}
