"""A model drafts for another only if both number tokens alike."""

from __future__ import annotations

import pytest

from olla.errors import BadInput
from olla.formats.vocabularies import check_vocabularies

TOKENS = dict(enumerate("abc"))


def padded(tokens: dict[int, str], rows: int) -> dict[int, str]:
    return tokens | {number: f"[PAD{number}]" for number in range(len(tokens), rows)}


@pytest.mark.parametrize(
    "other",
    [
        {},
        padded(TOKENS, 3000),
        padded(TOKENS | {3: "<think>"}, 3000),
        TOKENS | {number: f"<{number}>" for number in range(3, 3000)},
    ],
)
def test_what_both_know_has_to_agree_and_no_more(other: dict[int, str]) -> None:
    for tokens in (TOKENS, padded(TOKENS, 500)):
        check_vocabularies(tokens, other)
        check_vocabularies(other, tokens)


def test_one_token_that_differs_is_told() -> None:
    with pytest.raises(BadInput, match=r"token 2 is 'c' in one and 'x' in the other"):
        check_vocabularies(TOKENS, TOKENS | {2: "x"})
