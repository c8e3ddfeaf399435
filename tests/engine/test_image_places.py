"""Places of images: chunks that leave them whole, positions after them, what they are called."""

from __future__ import annotations

import pytest

from olla.engine.image_places import (
    Image,
    PlacedImage,
    Prompt,
    axes,
    end_of_chunk,
    identities,
    place,
    without_images,
)
from olla.errors import BadInput

WHOLE = Image(identity=-1, num_tokens=4, is_whole=True)
PARTS = Image(identity=-2, num_tokens=6, is_whole=False, grid=(2, 3))
IMG, T = 9, 1


def test_the_tokens_of_images_are_found_in_order() -> None:
    prompt = place([T, IMG, IMG, IMG, IMG, T, *[IMG] * 6, T], IMG, [WHOLE, PARTS])

    assert [(item.start, item.end) for item in prompt.images] == [(1, 5), (6, 12)]


@pytest.mark.parametrize("num_tokens", [0, 3, 5])
def test_more_or_fewer_tokens_than_an_image_has_are_refused(num_tokens: int) -> None:
    with pytest.raises(BadInput, match=f"has {num_tokens} tokens for images where its images need"):
        place([T, *[IMG] * num_tokens], IMG, [WHOLE])


def test_tokens_of_images_before_the_start_are_not_looked_for() -> None:
    prompt = place([IMG, T, IMG, IMG, IMG, IMG], IMG, [WHOLE], start=1)

    assert prompt == Prompt([IMG, T, IMG, IMG, IMG, IMG], (PlacedImage(WHOLE, 2),))


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
