"""Where images stand in a prompt: an image's tokens, and the positions of what follows it.

Knows counts and numbers; the pixels are somebody else's to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from olla.errors import BadInput

Axes = tuple[int, int, int]
"""Where a token stands along time, height and width."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image as one model takes it.

    `identity` is negative, and another for every other image. If `is_whole`, its tokens see each
    other in both directions, so all are computed in one step. `grid` is the rows and columns that
    its tokens stand in, for models whose positions tell. `inputs` is what the model looks at.
    """

    identity: int
    num_tokens: int
    is_whole: bool
    grid: tuple[int, int] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image whose tokens are those from `start` on."""

    image: Image
    start: int

    @property
    def end(self) -> int:
        return self.start + self.image.num_tokens


@dataclass(frozen=True, slots=True)
class PlacedPrompt:
    tokens: list[int]
    images: tuple[PlacedImage, ...] = ()


def expand(
    tokens: Sequence[int], image_token: int, sizes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Have each image's token as many times as the image has tokens.

    Returns:
        The tokens, and where each image begins.

    Raises:
        BadInput: there are more or fewer images' tokens than `sizes`.
    """
    found = [index for index, token in enumerate(tokens) if token == image_token]
    if len(found) != len(sizes):
        raise BadInput(
            f"the prompt has {len(found)} tokens for {len(sizes)} images; "
            "do not write the model's own tokens for images into a text"
        )
    expanded: list[int] = []
    starts = []
    last = 0
    for index, size in zip(found, sizes, strict=True):
        expanded += tokens[last:index]
        starts.append(len(expanded))
        expanded += [image_token] * size
        last = index + 1
    return [*expanded, *tokens[last:]], starts


def without_images(tokens: Sequence[int], images: Sequence[PlacedImage]) -> list[int]:
    inside = {index for item in images for index in range(item.start, item.end)}
    return [token for index, token in enumerate(tokens) if index not in inside]


def identities(tokens: Sequence[int], images: Sequence[PlacedImage], start: int) -> tuple[int, ...]:
    """`tokens`, which begin at `start`, with an image's tokens named by what it shows."""
    named = list(tokens)
    end = start + len(named)
    for item in images:
        for index in range(max(start, item.start), min(end, item.end)):
            named[index - start] = item.image.identity
    return tuple(named)


def end_of_chunk(images: Sequence[PlacedImage], start: int, end: int) -> int:
    """The end of a chunk [start, end) moved so that it cuts through no image that is whole."""
    for item in images:
        if item.image.is_whole and item.start < end < item.end:
            return item.start if item.start > start else item.end
    return end


def axes(images: Sequence[PlacedImage], start: int, end: int) -> list[Axes]:
    """The positions of the tokens [start, end): an image is as long as its longer side."""
    found: list[Axes] = []
    shift = 0
    for item in images:
        found += _line(start + len(found), min(item.start, end), shift)
        rows, columns = item.image.grid or (1, item.image.num_tokens)
        origin = item.start - shift
        for index in range(start + len(found), min(item.end, end)):
            row, column = divmod(index - item.start, columns)
            found.append((origin, origin + row, origin + column))
        shift += item.image.num_tokens - max(rows, columns)
    return found + _line(start + len(found), end, shift)


def _line(start: int, end: int, shift: int) -> list[Axes]:
    return [(index - shift,) * 3 for index in range(start, end)]
