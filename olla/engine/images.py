"""ImageReader: images and the prompt they belong to -> what the model takes of both.

Which part of a prompt stands for an image, and how many tokens an image is, differs by family:
`_SIGHTS` has a line for each. The repository's own image processor makes the pixels, on the CPU.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer

from olla.engine.image_places import Image
from olla.engine.models.hf import link_files
from olla.engine.pictures import decode
from olla.engine.recent import Recent
from olla.errors import BadInput, FormatError, OutOfMemory

_KEPT_BYTES = 256 * 2**20
_TAG = re.compile(r"\[img-([0-9]{1,4})\]")


@dataclass(frozen=True, slots=True)
class Sight:
    """How a family writes images.

    A template writes `marker` for an image, inside `wrapped`; the model reads `before`, the
    image's tokens (`image_token`), and `after` in its place. `settings` are the processor's.
    """

    marker: str
    wrapped: str
    image_token: str
    is_whole: bool
    grid_key: str = ""
    before: str = ""
    after: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class ImageReader:
    """For one thread. Remembers the images it has read last, since conversations repeat them."""

    def __init__(self, files: Mapping[str, Path], tokenizer: Tokenizer) -> None:
        """Read a repository's settings.

        Raises:
            FormatError: its image processor cannot be loaded, or its tokenizer lacks a token.
        """
        self._config, self._processor = _load({n: p for n, p in files.items() if _is_text(n)})
        self._sight = _SIGHTS[self._config.model_type](self._config, tokenizer)
        self.image_token = _number(tokenizer, self._sight.image_token)
        self._read: Recent[Image] = Recent(_KEPT_BYTES)

    def read(self, text: str, files: Sequence[bytes]) -> tuple[str, list[Image]]:
        """The prompt as the model reads it, and its images in the order of their places.

        Raises:
            BadInput: an image cannot be read, or has no place in the text.
        """
        parts, order = self._places(text, len(files))
        images = [self._image(index, data) for index, data in enumerate(files)]
        written = [parts[0]]
        for index, part in zip(order, parts[1:], strict=True):
            written += [self._written(images[index]), part]
        return "".join(written), [images[index] for index in order]

    def _places(self, text: str, num_images: int) -> tuple[list[str], list[int]]:
        """The text between the images' places, and which image each place is for."""
        sight = self._sight
        parts = text.split(sight.marker)
        order = list(range(len(parts) - 1))
        if not order:
            pieces = _TAG.split(text)
            order = [int(number) for number in pieces[1::2]]
            parts = _wrapped(pieces[::2], sight.wrapped.split(sight.marker))
        if sorted(order) != list(range(num_images)):
            raise BadInput(
                f"the prompt has places for {len(order)} images, but {num_images} came; "
                "the model's template, or a raw prompt, must write one for each"
            )
        return parts, order

    def _written(self, image: Image) -> str:
        sight = self._sight
        return f"{sight.before}{sight.image_token * image.num_tokens}{sight.after}"

    def _image(self, index: int, data: bytes) -> Image:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        identity = -1 - int.from_bytes(digest, "little")
        found = self._read.get(identity)
        if found is None:
            try:
                found = self._processed(identity, data)
            except (BadInput, ValueError) as error:  # such as sides too unequal for the model
                raise BadInput(f"images[{index}]: {error}") from error
            except MemoryError as error:
                raise OutOfMemory(f"images[{index}] takes more memory than there is") from error
            num_bytes = sum(tensor.nbytes for tensor in found.inputs.values())
            self._read.put(identity, found, num_bytes)
        return found

    def _processed(self, identity: int, data: bytes) -> Image:
        sight = self._sight
        made = self._processor(images=[decode(data)], return_tensors="pt", **sight.settings)
        if not sight.grid_key:
            inputs = {"pixel_values": made["pixel_values"]}
            return Image(identity, self._config.mm_tokens_per_image, sight.is_whole, None, inputs)
        side = self._processor.merge_size
        _, rows, columns = (int(number) for number in made[sight.grid_key][0])
        grid = (rows // side, columns // side)
        inputs = {key: made[key] for key in ("pixel_values", sight.grid_key)}
        return Image(identity, grid[0] * grid[1], sight.is_whole, grid, inputs)


def _wrapped(parts: list[str], around: list[str]) -> list[str]:
    """The text between places, each of which is to have `around` before and after it."""
    before, after = around
    last = len(parts) - 1
    return [
        (after if index else "") + part + (before if index < last else "")
        for index, part in enumerate(parts)
    ]


def _load(files: Mapping[str, Path]) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory(prefix="olla-") as folder:
        link_files(files, Path(folder))
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
        except (ValueError, KeyError, OSError, ImportError, TypeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise FormatError(f"the model's image processor cannot be loaded: {reason}") from error
    return config, processor


def _is_text(name: str) -> bool:
    return name.endswith(".json")


def _token(tokenizer: Tokenizer, number: int) -> str:
    text = tokenizer.id_to_token(number)
    if text is None:
        raise FormatError(f"the tokenizer has no token {number}, which stands for images")
    return str(text)


def _number(tokenizer: Tokenizer, text: str) -> int:
    number = tokenizer.token_to_id(text)
    assert number is not None, "it was looked up by its number"
    return int(number)


def _gemma3(config: Any, tokenizer: Tokenizer) -> Sight:
    begin, end, image = (
        _token(tokenizer, number)
        for number in (config.boi_token_index, config.eoi_token_index, config.image_token_index)
    )
    return Sight(
        marker=begin,
        wrapped=begin,
        image_token=image,
        is_whole=True,
        before=f"\n\n{begin}",
        after=f"{end}\n\n",
        settings={"do_pan_and_scan": False},
    )


def _qwen2_vl(config: Any, tokenizer: Tokenizer) -> Sight:
    begin, end, image = (
        _token(tokenizer, number)
        for number in (
            config.vision_start_token_id,
            config.vision_end_token_id,
            config.image_token_id,
        )
    )
    return Sight(
        marker=image,
        wrapped=begin + image + end,
        image_token=image,
        is_whole=False,
        grid_key="image_grid_thw",
    )


_SIGHTS: Mapping[str, Callable[[Any, Tokenizer], Sight]] = {
    "gemma3": _gemma3,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_vl,
}
