"""Logits of a step -> the tokens that each reply grows by, as if nothing had been drafted.

Each row is drawn by the random number, history and grammar that its token would have had alone. A
draft holds as far as it is what was drawn; the token after that is drawn as well.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import NamedTuple

from torch import Tensor

from olla.engine.logprobs import score
from olla.engine.reply import Reply
from olla.engine.sampler import SamplingRow, sample
from olla.engine.token_bytes import TokenBytes
from olla.requests import TokenLogprob


class Verified(NamedTuple):
    """A reply's next tokens, one at least, with logprobs if they were asked for.

    All but the last were in the draft, of which `num_tested` tokens could be held against what was
    drawn.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob | None]
    num_tested: int

    @property
    def num_accepted(self) -> int:
        return len(self.tokens) - 1


def verify(
    logits: Tensor,
    replies: Rows[Reply],
    drafts: Rows[Rows[int]],
    vocab_size: int,
    token_bytes: TokenBytes,
) -> list[Verified]:
    """Draw the next tokens of each reply.

    Args:
        logits: (num_rows, vocab_size), float32, overwritten: for each reply in turn the row of its
            last token, and one for each token of its draft.
    """
    rows: list[SamplingRow] = []
    spans: list[slice] = []
    picked: list[int] = []
    first = 0
    for reply, draft in zip(replies, drafts, strict=True):
        found = reply.sampling_rows(vocab_size, draft)
        spans.append(slice(len(rows), len(rows) + len(found)))
        picked += range(first, first + len(found))
        rows += found
        first += 1 + len(draft)
    if len(picked) < first:
        logits = logits[picked]
    kept = [
        logits[span].clone() if reply.request.logprobs else None
        for span, reply in zip(spans, replies, strict=True)
    ]
    drawn = sample(logits, rows)
    return [
        _verified(drawn[span], draft, own, reply.request.top_logprobs, token_bytes)
        for span, draft, own, reply in zip(spans, drafts, kept, replies, strict=True)
    ]


def _verified(
    drawn: list[int],
    draft: Rows[int],
    logits: Tensor | None,
    num_top: int,
    token_bytes: TokenBytes,
) -> Verified:
    tested = len(drawn) - 1
    same = next((at for at in range(tested) if drawn[at] != draft[at]), tested)
    tokens = drawn[: same + 1]
    logprobs: list[TokenLogprob | None] = [None] * len(tokens)
    if logits is not None:
        # Row by row, so that sums over one are those of a step without a draft.
        logprobs = [
            score(logits[at : at + 1], [token], num_top, token_bytes)[0]
            for at, token in enumerate(tokens)
        ]
    return Verified(tokens, logprobs, tested)
