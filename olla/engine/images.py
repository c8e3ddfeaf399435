"""ImageReader: images and the prompt they belong to -> what the model takes of both.

How families write images is engine/sights.py's to know. How many tokens an image is shows in its
header, so a prompt can be counted and refused before any pixel is made; then the repository's own
image processor makes them, on the CPU.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer

from olla.engine.image_places import Image
from olla.engine.memory import is_out_of_memory
from olla.engine.models.hf import link_files
from olla.engine.pictures import decode, measure
from olla.engine.recent import Recent
from olla.engine.sights import sight_of
from olla.errors import BadInput, FormatError, OutOfMemory

MAX_PIXELS_TOGETHER = 256 * 10**6

_KEPT_BYTES = 256 * 2**20
_TAG = re.compile(r"\[img-([0-9]{1,4})\]")


class ImageReader:
    """For one thread. Remembers the images it has read last, since conversations repeat them."""

    def __init__(self, files: Mapping[str, Path], tokenizer: Tokenizer) -> None:
        """Read a repository's settings.

        Raises:
            FormatError: its image processor cannot be loaded, or its tokenizer lacks a token.
        """
        config, self._processor = _load({n: p for n, p in files.items() if n.endswith(".json")})
        self._sight = sight_of(config, self._processor, tokenizer)
        self._read: Recent[int, Image] = Recent(_KEPT_BYTES)

    @property
    def image_token(self) -> int:
        """The token that an image is made of."""
        return self._sight.image_token_id

    def write(self, text: str, files: Sequence[bytes]) -> tuple[str, list[int]]:
        """The prompt with one token for each image, and which image each of them is for.

        Raises:
            BadInput: an image has no place in the text.
        """
        parts, order = self._places(text, len(files))
        sight = self._sight
        return f"{sight.before}{sight.image_token}{sight.after}".join(parts), order

    def sizes(self, files: Sequence[bytes]) -> list[int]:
        """How many tokens each image is.

        Raises:
            BadInput: a file is no image, or one that the model cannot take.
        """
        sizes = []
        for index, data in enumerate(files):
            with _named(index):
                width, height = measure(data)
                sizes.append(self._sight.num_tokens(height, width))
        return sizes

    def look(self, files: Sequence[bytes]) -> list[Image]:
        """The images as the model takes them.

        Raises:
            BadInput: an image cannot be read, or they are too large together.
            OutOfMemory: there is too little memory for an image.
        """
        num_pixels = 0
        for index, data in enumerate(files):
            with _named(index):
                width, height = measure(data)
            num_pixels += width * height
        if num_pixels > MAX_PIXELS_TOGETHER:
            raise BadInput(
                f"the images have {num_pixels} pixels together, more than {MAX_PIXELS_TOGETHER}; "
                "send fewer of them, or make them smaller"
            )
        return [self._image(index, data) for index, data in enumerate(files)]

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

    def _image(self, index: int, data: bytes) -> Image:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        identity = -1 - int.from_bytes(digest, "little")
        found = self._read.get(identity)
        if found is None:
            with _named(index):
                found = self._processed(identity, data)
            num_bytes = sum(tensor.nbytes for tensor in found.inputs.values())
            self._read.put(identity, found, num_bytes)
        return found

    def _processed(self, identity: int, data: bytes) -> Image:
        sight, picture = self._sight, decode(data)
        made = self._processor(images=[picture], return_tensors="pt", **sight.settings)
        num_tokens = sight.num_tokens(picture.height, picture.width)
        if not sight.grid_key:
            inputs = {"pixel_values": made["pixel_values"]}
            return Image(identity, num_tokens, sight.is_whole, None, inputs)
        _, rows, columns = (int(number) // sight.merged for number in made[sight.grid_key][0])
        inputs = {key: made[key] for key in ("pixel_values", sight.grid_key)}
        return Image(identity, num_tokens, sight.is_whole, (rows, columns), inputs)


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Have errors about an image say which one it is."""
    try:
        yield
    except (BadInput, ValueError, ArithmeticError) as error:  # such as sides too unequal
        raise BadInput(f"images[{index}]: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"images[{index}] takes more memory than there is") from error


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
