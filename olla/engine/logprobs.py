"""How probable tokens were: of the model's own logits, before penalties, bias, grammar and filters.

That is what llama.cpp and OpenAI report, and it does not depend on how the token was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from olla.engine.row_sampler import likeliest_tokens, sum_of_exp
from olla.engine.token_bytes import TokenBytes
from olla.requests import TokenLogprob

MAX_TOP = 20
_LEAST = -9999.0  # JSON has no infinity
_ROWS_AT_ONCE = 64  # a long prompt's rows take a copy of their logits each


class _Found(NamedTuple):
    """For each row the logprob of its token, those of the likeliest, and which these are."""

    of_tokens: list[float]
    of_top: list[list[float]]
    top: list[list[int]]


@torch.inference_mode()
def score(
    logits: Tensor, tokens: Rows[int], num_top: int, token_bytes: TokenBytes
) -> list[TokenLogprob]:
    """What the model thought of `tokens` (num_rows), each by its row.

    Args:
        logits: (num_rows, vocab_size), float32, as they came from the model.
        num_top: how many of the likeliest tokens come along.
    """
    scores: list[TokenLogprob] = []
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        scores += _score(logits[start:end], tokens[start:end], num_top, token_bytes)
    return scores


def _score(
    logits: Tensor, tokens: Rows[int], num_top: int, token_bytes: TokenBytes
) -> list[TokenLogprob]:
    find = _logprobs_in_memory if logits.device.type == "cpu" else _logprobs
    of_tokens, values, top_ids = find(logits, tokens, min(num_top, logits.shape[1]))
    return [
        describe(
            token,
            logprob,
            token_bytes,
            tuple(map(describe, top, logprobs, [token_bytes] * len(top))),
        )
        for token, logprob, top, logprobs in zip(tokens, of_tokens, top_ids, values, strict=True)
    ]


def _logprobs(logits: Tensor, tokens: Rows[int], num_top: int) -> _Found:
    sums = logits.logsumexp(dim=-1, keepdim=True)
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    of_tokens = (logits.gather(1, ids) - sums).flatten().tolist()
    top = logits.topk(num_top, dim=-1)
    return _Found(of_tokens, (top.values - sums).tolist(), top.indices.tolist())


def _logprobs_in_memory(logits: Tensor, tokens: Rows[int], num_top: int) -> _Found:
    """As `_logprobs`, on a CPU: without threads of torch that spin where the core computes."""
    found = _Found([], [], [])
    for row, token in zip(logits.numpy(), tokens, strict=True):
        most = row.max()
        with np.errstate(invalid="ignore"):  # a broken model's
            total = most + np.log(sum_of_exp(row, most))
        top = likeliest_tokens(row, num_top)
        found.of_tokens.append(float(row[token] - total))
        found.of_top.append((row[top] - total).tolist())
        found.top.append(top.tolist())
    return found


def describe(
    token: int, logprob: float | None, token_bytes: TokenBytes, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    raw = token_bytes(token)
    # In this order, NaN of a broken model becomes the least as well.
    bounded = None if logprob is None else max(_LEAST, logprob)
    return TokenLogprob(raw.decode(errors="replace"), raw, bounded, top)


@dataclass(slots=True)
class LogprobQueue:
    """Holds tokens' logprobs back until the tokens' text is shown.

    A token is shown when all of its text is; tokens that make up a character together are shown
    together, and one without text with the next that has some. Of the tokens that a stop string
    cuts off, those that have shown some of their text count.
    """

    _open: list[TokenLogprob] = field(default_factory=list)
    _waiting: deque[tuple[int, int, list[TokenLogprob]]] = field(default_factory=deque)
    _num_known: int = 0
    _num_shown: int = 0

    def push(self, logprob: TokenLogprob, text: str) -> None:
        """Add a token; `text` is what the reply has grown by with it."""
        self._open.append(logprob)
        if text:
            end = self._num_known + len(text)
            self._waiting.append((self._num_known, end, self._open))
            self._num_known, self._open = end, []

    def show(self, text: str) -> list[TokenLogprob]:
        """The logprobs that go with the next piece of text."""
        self._num_shown += len(text)
        shown: list[TokenLogprob] = []
        while self._waiting and self._waiting[0][1] <= self._num_shown:
            shown += self._waiting.popleft()[2]
        return shown

    def finish(self, text: str, *, is_cut: bool) -> list[TokenLogprob]:
        """Those of the last piece; `is_cut` if a stop string took the rest of the text away."""
        shown = self.show(text)
        for start, _, logprobs in self._waiting:
            if not is_cut or start < self._num_shown:
                shown += logprobs
        return shown if is_cut else shown + self._open
