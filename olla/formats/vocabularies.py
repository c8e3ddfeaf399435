"""Whether two models number tokens alike, as one that drafts for the other has to."""

from __future__ import annotations

from collections.abc import Mapping

from olla.errors import BadInput

MOST_PADDING = 128
"""By so many tokens at its end a vocabulary may be longer: sizes are rounded up."""


def check_vocabularies(base: Mapping[int, str], draft: Mapping[int, str]) -> None:
    """
    Args:
        base, draft: each token's text by its number; nothing is known of an empty one.

    Raises:
        BadInput: a number means another token in the draft model.
    """
    if not base or not draft:
        return
    differing = [number for number in base.keys() & draft.keys() if base[number] != draft[number]]
    if not differing and abs(len(base) - len(draft)) <= MOST_PADDING:
        return
    reason = f"they have {len(base)} and {len(draft)} tokens"
    if differing:
        first = min(differing)
        reason = f"token {first} is {base[first]!r} in one and {draft[first]!r} in the other"
    raise BadInput(
        f"the DRAFT model has another vocabulary than the model: {reason}; "
        "make the model with a smaller one of the same family"
    )
