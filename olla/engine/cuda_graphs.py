"""CUDA graphs for decoding: a step recorded for each size of batch, replayed on new inputs.

A decode step launches hundreds of small kernels, which costs more than they compute. A recording
launches them at once, but its shapes are fixed: so batches are padded to the next size, and their
block tables to the next length. Padding rows read and write a scratch slot that no sequence has.
Recording is handed in, so that all but CUDA itself runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Rows of the recordings. A larger batch has kernels large enough to do without."""
LEAST_BLOCKS = 16
MOST_BLOCKS = 4096
"""Rows times blocks of a recording: attention copies what they hold, which has to stay small."""


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
    """Records a computation whose inputs and outputs stay where they are."""

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
        """What `compute` gives for the inputs, (num_rows, ...); good until the next call.

        Their shape is one that `padded_shape` holds.
        """
        num_rows, num_blocks = inputs.tables.shape
        size = padded_shape(num_rows, num_blocks)
        assert size is not None
        recording = self._recording(*size, inputs)
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


def padded_shape(num_rows: int, num_blocks: int) -> tuple[int, int] | None:
    """Rows and blocks of the recording for so many; None for what is computed as it comes.

    Blocks go up to the next power of two, so that a growing reply needs few recordings.
    """
    rows = next((size for size in SIZES if size >= num_rows), None)
    blocks = max(LEAST_BLOCKS, 1 << (num_blocks - 1).bit_length())
    return None if rows is None or rows * blocks > MOST_BLOCKS else (rows, blocks)


class CudaRecorder:
    """Records with CUDA graphs, all in one pool of memory: no two of them replay at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Recorded:
        """Record after a run that lets libraries choose and allocate."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = compute()
        return Recorded(graph.replay, outputs)
