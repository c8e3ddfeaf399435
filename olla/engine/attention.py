"""Attention of a mixed batch: each sequence's new tokens over its own past, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.models.batch import Batch, BlockTables


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

    Args and result are those of `attend`, but keys and values are the new tokens' alone:
    (num_tokens, num_kv_heads, head_dim).
    """
    batch.cache.write(layer, batch.slots, keys, values)
    if batch.tables is not None:
        cached = batch.cache.whole(layer)
        return attend_tables(
            queries,
            cached,
            batch.tables,
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
        )
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


def attend_tables(
    queries: Tensor,
    cached: tuple[Tensor, Tensor],
    tables: BlockTables,
    *,
    scale: float,
    sliding_window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Attention of one token of each sequence over its block table, in shapes that do not vary.

    Args:
        queries: (num_rows, num_heads, head_dim).
        cached: keys and values of a layer, (num_slots, num_kv_heads, head_dim) each, with those
            of the new tokens in them.

    Returns:
        (num_rows, num_heads * head_dim).
    """
    num_rows, num_heads, _ = queries.shape
    offsets = torch.arange(tables.block_size, device=queries.device)
    slots = (tables.blocks[..., None] * tables.block_size + offsets).flatten(1)
    places = torch.arange(slots.shape[1], device=queries.device)
    seen = places < tables.lengths[:, None]
    # What lies behind a sequence's end may be anything, numbers that are none included, and
    # nought times those is not nought: its first token stands in.
    slots = torch.where(seen, slots, slots[:, :1])
    if sliding_window:
        seen &= places >= tables.lengths[:, None] - sliding_window
    keys, values = (states[slots].transpose(1, 2) for states in cached)
    grouped = queries.reshape(num_rows, keys.shape[1], -1, keys.shape[-1])
    mask = seen[:, None, None]
    if softcap:
        mixed = _attend_softcapped(grouped, keys, values, mask, scale, softcap)
    else:
        mixed = functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=scale
        )
    return mixed.reshape(num_rows, num_heads * values.shape[-1])


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
    scores = cap * torch.tanh((queries @ keys.transpose(-1, -2)) * (scale / cap))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), dim=-1).to(values.dtype) @ values
