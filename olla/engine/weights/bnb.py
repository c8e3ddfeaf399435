"""bitsandbytes' arithmetic, bit for bit, without the package: nf4, fp4 and int8.

Four bits: blocks of values along the rows, each a share, out of a table of sixteen, of the block's
largest magnitude; with double quantization those magnitudes less their mean are in eight bits.
Eight bits: each row in steps of a 127th of its largest magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.matrices import BnbTensor
from olla.formats.bitsandbytes import QuantState, format_quant_state, scales_name, state_name

BLOCK, NESTED_BLOCK = 64, 256

NF4 = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip
"""Dettmers et al., QLoRA, 2023, appendix E."""
_STEP = 7.874015718698502e-3  # a 127th, as bitsandbytes has it
_TINY = 1e-38
_BLOCKS_AT_ONCE = 1 << 12  # what they take stays in the processor's caches


def quantize_nf4(values: Tensor) -> BnbTensor:
    """A matrix in nf4 with double quantization; its dtype is what it will be rounded to."""
    whole_bytes = functional.pad(values.flatten().float(), (0, values.numel() % 2))
    codes, magnitudes = _in_blocks(whole_bytes, BLOCK, NF4)
    offset = magnitudes.mean()
    table = dynamic_table()
    nested_codes, nested_magnitudes = _in_blocks(magnitudes - offset, NESTED_BLOCK, table)
    companions = {
        "absmax": nested_codes,
        "quant_map": NF4,
        "nested_absmax": nested_magnitudes,
        "nested_quant_map": table,
    }
    dtype = str(values.dtype).removeprefix("torch.")
    shape = tuple(values.shape)
    state = QuantState("nf4", shape, BLOCK, dtype, NESTED_BLOCK, offset.item())
    packed = ((codes[::2] << 4) | codes[1::2]).unsqueeze(1)
    return BnbTensor.of(shape, packed, companions, state)


def quantize_int8(values: Tensor) -> BnbTensor:
    """A matrix in int8, by way of half precision, as bitsandbytes does it."""
    halves = values.half()
    magnitudes = halves.abs().amax(dim=1).float()
    rounded = (halves * (127.0 / magnitudes.clamp(min=_TINY)[:, None])).round().to(torch.int8)
    return BnbTensor.of(tuple(values.shape), rounded, {"SCB": magnitudes}, None)


def stored_tensors(name: str, tensor: BnbTensor) -> dict[str, Tensor]:
    """What a file holds of the parameter `name`."""
    if tensor.state is None:
        return {name: tensor.values, scales_name(name): tensor.companions["SCB"]}
    text = torch.tensor(list(format_quant_state(tensor.state)), dtype=torch.uint8)
    found = {f"{name}.{end}": part.clone() for end, part in tensor.companions.items()}
    return {name: tensor.values, **found, state_name(name, tensor.state): text}


def dequantize(tensor: BnbTensor) -> Tensor:
    """What bitsandbytes computes with: in the dtype of the state, or float32 for int8."""
    dtype = torch.float32 if tensor.state is None else getattr(torch, tensor.state.dtype)
    out = torch.empty(tensor.shape, dtype=dtype)
    dequantize_into(tensor, out)
    return out


def dequantize_into(tensor: BnbTensor, out: Tensor) -> None:
    """Fill `out`, of the matrix's shape and any precision, piece by piece."""
    state = tensor.state
    if state is None:
        rows = max(_BLOCKS_AT_ONCE * BLOCK // max(tensor.shape[-1], 1), 1)
        scales = tensor.companions["SCB"].view(-1, 1)
        for first in range(0, tensor.shape[0], rows):
            part = slice(first, first + rows)
            out[part] = tensor.values[part] * scales[part] * _STEP
        return
    # Two values for each byte, looked up together.
    table = tensor.companions["quant_map"]
    pairs = torch.stack((table.repeat_interleave(16), table.repeat(16)), dim=1)
    dtype, magnitudes = getattr(torch, state.dtype), _magnitudes(tensor, state)
    flat, packed = out.view(-1), tensor.values.flatten()
    size = _BLOCKS_AT_ONCE * BLOCK // state.block_size * state.block_size
    for first in range(0, flat.numel(), size):
        last = min(first + size, flat.numel())
        shares = functional.embedding(packed[first // 2 : (last + 1) // 2].int(), pairs)
        scales = magnitudes[first // state.block_size : -(-last // state.block_size)]
        values = _scaled(shares.view(-1)[: last - first], scales, state.block_size)
        flat[first:last] = values.to(dtype)


def companion_dtypes(state: QuantState) -> list[tuple[str, torch.dtype]]:
    """What lies beside a weight in four bits, by the ends of their names."""
    found = [("absmax", torch.float32), ("quant_map", torch.float32)]
    if state.nested_block_size:
        found[0] = ("absmax", torch.uint8)
        found += [("nested_absmax", torch.float32), ("nested_quant_map", torch.float32)]
    return found


def dynamic_table() -> Tensor:
    """The 256 values of bitsandbytes' dynamic type: the smaller a number, the fewer of its digits.

    (Dettmers, 8-bit approximations for parallelism in deep learning, 2015.)
    """
    found = [0.0, 1.0]
    for exponent in range(7):
        ends = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = 10 ** (exponent - 6) * ((ends[:-1] + ends[1:]) / 2.0)
        found += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(found))


def _in_blocks(values: Tensor, size: int, table: Tensor) -> tuple[Tensor, Tensor]:
    """The number in `table` of what is nearest to each value's share of its block's magnitude.

    Returns:
        (num_values,) uint8 and the magnitudes, (num_blocks,) float32.
    """
    borders = (table[:-1] + table[1:]) / 2
    codes, magnitudes = [], []
    for part in torch.split(values, _BLOCKS_AT_ONCE * size):
        blocks = functional.pad(part, (0, -len(part) % size)).view(-1, size)
        largest = blocks.abs().amax(dim=1)
        shares = (blocks * (1.0 / largest.clamp(min=_TINY))[:, None]).clamp(-1, 1)
        codes.append(torch.bucketize(shares.flatten()[: len(part)], borders).to(torch.uint8))
        magnitudes.append(largest)
    return torch.cat(codes), torch.cat(magnitudes)


def _magnitudes(tensor: BnbTensor, state: QuantState) -> Tensor:
    """Of the blocks, (num_blocks,) float32."""
    stored = tensor.companions["absmax"]
    if not state.nested_block_size:
        return stored
    shares = tensor.companions["nested_quant_map"][stored.flatten().int()]
    nested = _scaled(shares, tensor.companions["nested_absmax"], state.nested_block_size)
    return nested + state.nested_offset


def _scaled(shares: Tensor, magnitudes: Tensor, size: int) -> Tensor:
    """Shares (num_values,) of the magnitudes (num_blocks,) of their blocks."""
    if len(shares) % size == 0:
        return shares.view(-1, size).mul_(magnitudes[:, None]).flatten()
    return shares * magnitudes.repeat_interleave(size)[: len(shares)]
