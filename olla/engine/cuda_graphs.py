"""CUDA graphs for decoding: a step recorded for each size of batch, replayed on new inputs.

A decode step launches hundreds of small kernels, which costs more than they compute. A recording
launches them at once, but its shapes are fixed: so batches are padded to the next size, and their
block tables to the next length. Padding rows read and write a scratch slot that no sequence has.
Recording is handed in, so that all but CUDA itself runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Rows of the recordings. A larger batch has kernels large enough to do without."""
LEAST_BLOCKS = 16


class DecodeInputs(NamedTuple):
    """One new token of each sequence, all int64.

    tokens, positions, slots: (num_rows,). tables: (num_rows, num_blocks), the blocks of each
    sequence in order, anything behind them. lengths: (num_rows,), the new token included.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    tables: Tensor
    lengths: Tensor


Compute = Callable[[DecodeInputs], Tensor]


class Recorded(NamedTuple):
    """`replay` computes `outputs` anew from what the inputs hold then."""

    replay: Callable[[], None]
    outputs: Tensor


class Record(Protocol):
    def __call__(self, compute: Callable[[], Tensor]) -> Recorded: ...


class _Recording(NamedTuple):
    inputs: DecodeInputs
    recorded: Recorded


class DecodeGraphs:
    """Runs `compute` through recordings, which are made when a size first comes."""

    def __init__(self, compute: Compute, record: Record, scratch_block: int, block_size: int):
        self._compute = compute
        self._record = record
        self._scratch_block = scratch_block
        self._scratch_slot = scratch_block * block_size
        self._recordings: dict[tuple[int, int], _Recording] = {}

    def run(self, inputs: DecodeInputs) -> Tensor:
        """What `compute` gives for the inputs, (num_rows, ...); good until the next call."""
        num_rows = inputs.tokens.shape[0]
        size = padded_rows(num_rows)
        if size is None:
            return self._compute(inputs)
        recording = self._recording(size, padded_blocks(inputs.tables.shape[1]), inputs)
        self._fill(recording.inputs, inputs)
        recording.recorded.replay()
        return recording.recorded.outputs[:num_rows]

    def _recording(self, rows: int, blocks: int, like: DecodeInputs) -> _Recording:
        if (rows, blocks) not in self._recordings:
            inputs = DecodeInputs(
                tokens=like.tokens.new_zeros(rows),
                positions=like.positions.new_zeros(rows),
                slots=like.slots.new_zeros(rows),
                tables=like.tables.new_zeros(rows, blocks),
                lengths=like.lengths.new_zeros(rows),
            )
            self._pad(inputs, 0)
            recorded = self._record(lambda: self._compute(inputs))
            self._recordings[rows, blocks] = _Recording(inputs, recorded)
        return self._recordings[rows, blocks]

    def _fill(self, fixed: DecodeInputs, inputs: DecodeInputs) -> None:
        num_rows, num_blocks = inputs.tables.shape
        self._pad(fixed, num_rows)
        fixed.tokens[:num_rows] = inputs.tokens
        fixed.positions[:num_rows] = inputs.positions
        fixed.slots[:num_rows] = inputs.slots
        fixed.lengths[:num_rows] = inputs.lengths
        fixed.tables[:num_rows, :num_blocks] = inputs.tables
        fixed.tables[:num_rows, num_blocks:] = self._scratch_block

    def _pad(self, fixed: DecodeInputs, start: int) -> None:
        """Make every row from `start` on a sequence of one token in the scratch slot."""
        fixed.tokens[start:] = 0
        fixed.positions[start:] = 0
        fixed.slots[start:] = self._scratch_slot
        fixed.lengths[start:] = 1
        fixed.tables[start:] = self._scratch_block


def padded_rows(num_rows: int, sizes: Sequence[int] = SIZES) -> int | None:
    """The least of the sizes that holds the rows; None for more than any does."""
    return next((size for size in sizes if size >= num_rows), None)


def padded_blocks(num_blocks: int) -> int:
    """The next power of two, so that a growing reply needs few recordings."""
    return max(LEAST_BLOCKS, 1 << (num_blocks - 1).bit_length())


def attend_tables(
    queries: Tensor,
    cached: tuple[Tensor, Tensor],
    inputs: DecodeInputs,
    block_size: int,
    *,
    scale: float,
    sliding_window: int = 0,
) -> Tensor:
    """Attention of one token of each sequence over its block table, in shapes that do not vary.

    Args:
        queries: (num_rows, num_heads, head_dim).
        cached: keys and values of a layer, (num_slots, num_kv_heads, head_dim) each, with those
            of the new tokens in them.

    Returns:
        (num_rows, num_heads * head_dim).
    """
    num_rows, num_heads, head_dim = queries.shape
    offsets = torch.arange(block_size, device=queries.device)
    slots = (inputs.tables[..., None] * block_size + offsets).flatten(1)
    places = torch.arange(slots.shape[1], device=queries.device)
    seen = places < inputs.lengths[:, None]
    if sliding_window:
        seen &= places >= inputs.lengths[:, None] - sliding_window
    # What lies behind a sequence's end may be anything, numbers that are none included.
    unseen = ~seen[..., None, None]
    keys, values = (states[slots].masked_fill(unseen, 0.0).transpose(1, 2) for states in cached)
    grouped = queries.reshape(num_rows, keys.shape[1], -1, head_dim)
    mixed = functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=seen[:, None, None], scale=scale
    )
    return mixed.reshape(num_rows, num_heads * values.shape[-1])


def record_on_cuda(compute: Callable[[], Tensor]) -> Recorded:
    """Record with CUDA graphs, after a run that lets libraries choose and allocate."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = compute()
    return Recorded(graph.replay, outputs)
