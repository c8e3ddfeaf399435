"""A model drafts for another only if both number tokens alike."""

from __future__ import annotations

import pytest

from olla.errors import BadInput
from olla.formats.vocabularies import check_vocabularies


def test_a_vocabulary_may_be_padded_but_not_much_longer() -> None:
    short = dict(enumerate("abc"))

    check_vocabularies(short, short | dict.fromkeys(range(3, 131), "pad"))
    check_vocabularies(short, {})
    with pytest.raises(BadInput, match="they have 3 and 132 tokens"):
        check_vocabularies(short, short | dict.fromkeys(range(3, 132), "pad"))
