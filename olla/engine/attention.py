"""Attention of a mixed batch: each sequence's new tokens over its own past, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.models.batch import Batch


def attend_batch(
    layer: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    batch: Batch,
    *,
    scale: float,
    sliding_window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Store a batch's keys and values, then attend for each of its sequences.

    Args:
        queries: (num_tokens, num_heads, head_dim). keys, values: (num_tokens, num_kv_heads,
            head_dim). The rest is as for `attend`.

    Returns:
        (num_tokens, num_heads * head_dim).
    """
    batch.cache.write(layer, batch.slots, keys, values)
    mixed = [
        attend(
            queries[span.start : span.end],
            *batch.cache.read(layer, span.slots),
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
            blocks=span.blocks,
        )
        for span in batch.spans
    ]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    sliding_window: int = 0,
    softcap: float = 0.0,
    blocks: Sequence[tuple[int, int]] = (),
) -> Tensor:
    """Causal grouped-query attention of one sequence.

    Args:
        queries: (num_tokens, num_heads, head_dim), the newest tokens.
        keys, values: (num_kv_heads, length, head_dim), past and new tokens.
        sliding_window: how many tokens back a token sees, itself included; 0 all.
        softcap: scores become `softcap * tanh(score / softcap)`; 0 leaves them.
        blocks: parts of the sequence whose tokens see each other in both directions.

    Returns:
        (num_tokens, num_heads * head_dim).
    """
    num_tokens, num_heads, head_dim = queries.shape
    if num_tokens == 1 and sliding_window:
        keys, values = keys[:, -sliding_window:], values[:, -sliding_window:]
    num_kv_heads, length, _ = keys.shape
    # Heads that share a key head stand side by side: a batched product, with no copy of keys.
    groups = num_heads // num_kv_heads
    grouped = queries.transpose(0, 1).reshape(num_kv_heads, groups * num_tokens, head_dim)
    mask = None
    if num_tokens > 1:
        mask = causal_mask(num_tokens, length, sliding_window, queries.device, blocks)
        mask = mask.repeat(groups, 1)
    if softcap:
        mixed = _attend_softcapped(grouped, keys, values, mask, scale, softcap)
    else:
        mixed = functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=scale
        )[0]
    return mixed.reshape(num_heads, num_tokens, -1).transpose(0, 1).reshape(num_tokens, -1)


def causal_mask(
    num_tokens: int,
    length: int,
    sliding_window: int,
    device: torch.device,
    blocks: Sequence[tuple[int, int]] = (),
) -> Tensor:
    """(num_tokens, length) bool: which of `length` tokens the last `num_tokens` may see."""
    columns = torch.arange(length, device=device)
    rows = columns[length - num_tokens :, None]
    mask = columns <= rows
    for start, end in blocks:
        mask |= (start <= rows) & (rows < end) & (start <= columns) & (columns < end)
    if sliding_window:
        mask &= columns > rows - sliding_window
    return mask


def _attend_softcapped(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    scores = cap * torch.tanh((queries @ keys.transpose(1, 2)) * (scale / cap))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), dim=-1).to(values.dtype) @ values
