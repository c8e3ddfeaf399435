"""Places of images: chunks that leave them whole, positions after them, what they are called."""

from __future__ import annotations

import pytest

from olla.engine.image_places import (
    Image,
    PlacedImage,
    axes,
    end_of_chunk,
    expand,
    identities,
    without_images,
)
from olla.errors import BadInput

WHOLE = Image(identity=-1, num_tokens=4, is_whole=True)
PARTS = Image(identity=-2, num_tokens=6, is_whole=False, grid=(2, 3))
IMG, T = 9, 1


def test_an_image_has_as_many_tokens_as_it_is_large() -> None:
    tokens, starts = expand([T, IMG, T, T, IMG, IMG], IMG, [3, 1, 2])

    assert tokens == [T, IMG, IMG, IMG, T, T, IMG, IMG, IMG]
    assert starts == [1, 6, 7]


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_more_or_fewer_tokens_than_images_are_refused(num_tokens: int) -> None:
    with pytest.raises(BadInput, match=f"the prompt has {num_tokens} tokens for 1 images; do not"):
        expand([T, *[IMG] * num_tokens], IMG, [4])


@pytest.mark.parametrize(
    ("start", "end", "moved"),
    [(0, 3, 2), (0, 2, 2), (0, 6, 6), (2, 3, 6), (2, 5, 6), (3, 4, 6), (0, 9, 9), (7, 9, 9)],
)
def test_a_chunk_does_not_cut_an_image_that_is_whole(start: int, end: int, moved: int) -> None:
    assert end_of_chunk([PlacedImage(WHOLE, 2)], start, end) == moved


def test_other_images_may_be_cut() -> None:
    assert end_of_chunk([PlacedImage(PARTS, 2)], 0, 4) == 4


def test_positions_go_on_after_the_longer_side_of_an_image() -> None:
    placed = [PlacedImage(PARTS, 2)]
    whole = [
        (0, 0, 0), (1, 1, 1),
        (2, 2, 2), (2, 2, 3), (2, 2, 4), (2, 3, 2), (2, 3, 3), (2, 3, 4),
        (5, 5, 5), (6, 6, 6),
    ]  # fmt: skip

    assert axes(placed, 0, 10) == whole
    for cut in range(11):
        assert axes(placed, 0, cut) + axes(placed, cut, 10) == whole


def test_tokens_of_an_image_are_called_what_it_shows() -> None:
    placed = [PlacedImage(WHOLE, 2)]
    tokens = [T, T, IMG, IMG, IMG, IMG, T]

    assert identities(tokens, placed, 0) == (T, T, -1, -1, -1, -1, T)
    assert identities(tokens[4:], placed, 4) == (-1, -1, T)
    assert without_images(tokens, placed) == [T, T, T]
