"""Whether two models number tokens alike, as one that drafts for the other has to.

Matrices have rows beyond the tokenizer's last token, of any number (Qwen 2.5 knows 151,665 tokens
and has 151,936 or 152,064 rows), and either model may know tokens that the other lacks.
"""

from __future__ import annotations

from collections.abc import Mapping

from olla.errors import BadInput


def check_vocabularies(base: Mapping[int, str], draft: Mapping[int, str]) -> None:
    """
    Args:
        base, draft: each token's text by its number; nothing is known of an empty one.

    Raises:
        BadInput: a number means one token in the model and another in the draft model.
    """
    base, draft = _known(base), _known(draft)
    differing = [number for number in base.keys() & draft.keys() if base[number] != draft[number]]
    if differing:
        first = min(differing)
        raise BadInput(
            f"the DRAFT model has another vocabulary than the model: token {first} is "
            f"{base[first]!r} in one and {draft[first]!r} in the other; "
            "make the model with a smaller one of the same family"
        )


def _known(vocabulary: Mapping[int, str]) -> Mapping[int, str]:
    """Without the names that GGUF files give to rows beyond the tokenizer's."""
    return {number: text for number, text in vocabulary.items() if text != f"[PAD{number}]"}
