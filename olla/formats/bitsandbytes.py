"""bitsandbytes' quantized weights in safetensors: which tensors make one parameter.

A weight X in four bits is X, packed, with X.absmax, X.quant_map and the JSON text
X.quant_state.bitsandbytes__nf4 (or __fp4) beside it; with double quantization X.absmax is in
eight bits and has X.nested_absmax and X.nested_quant_map. A weight in eight bits has its rows'
scales in SCB beside it. Knows names, shapes and that text; nothing of the arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olla.errors import FormatError
from olla.formats.safetensors import SafetensorsTensor

MAX_STATE_BYTES = 65536
_FOUR_BIT_TYPES = frozenset({"nf4", "fp4"})
_STATE = ".quant_state.bitsandbytes__"
_COMPANIONS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALES, _FORMAT = "SCB", "weight_format"
_DTYPES = frozenset({"float32", "float16", "bfloat16"})
_MAX_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class QuantState:
    """What the JSON text says of a weight of `shape` in four bits.

    `dtype` is what the values are rounded to. `nested_block_size` is 0 without double quantization.
    """

    quant_type: str
    shape: tuple[int, ...]
    block_size: int
    dtype: str
    nested_block_size: int = 0
    nested_offset: float = 0.0

    @property
    def num_blocks(self) -> int:
        return -(-math.prod(self.shape) // self.block_size)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as the model has it. `quant_type` is "nf4", "fp4" or "int8"; "" for floats."""

    shape: tuple[int, ...]
    quant_type: str = ""
    state: QuantState | None = None

    @property
    def packed_bytes(self) -> int:
        """Bytes of what is quantized, with what lies beside it."""
        if self.state is None:
            return math.prod(self.shape) + 4 * self.shape[0]
        return sum(_sizes("", self.state).values())


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that bitsandbytes quantized the weights."""
    return quantization_method(config) == "bitsandbytes"


def quantization_method(config: Mapping[str, Any]) -> str:
    """The `quant_method` of a config.json, "" for none.

    Repositories of the first years leave it out, and say only what bitsandbytes did.
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return ""
    is_old = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    return str(settings.get("quant_method") or ("bitsandbytes" if is_old else "unknown"))


def parameters(tensors: Iterable[tuple[Path, SafetensorsTensor]]) -> dict[str, Parameter]:
    """The parameters that tensors, each with its file, make together; by name.

    Raises:
        FormatError: a weight lacks what belongs to it, or that does not fit.
    """
    placed = {tensor.name: (path, tensor) for path, tensor in tensors}
    named = {name: tensor for name, (_, tensor) in placed.items()}
    states = dict(_states(placed.values()))
    found: dict[str, Parameter] = {}
    for name, tensor in named.items():
        if name in states:
            state = states[name]
            _check_four_bit(named, name, state)
            found[name] = Parameter(state.shape, state.quant_type, state)
        elif _is_companion(name, states, named):
            continue
        elif tensor.dtype == "I8":
            _check_eight_bit(named, tensor)
            found[name] = Parameter(tensor.shape, "int8")
        else:
            found[name] = Parameter(tensor.shape)
    return found


def scales_name(weight: str) -> str:
    """The tensor of the scales of a weight in eight bits."""
    return f"{weight.rpartition('.')[0]}.{_SCALES}"


def state_name(weight: str, state: QuantState) -> str:
    """The tensor of the JSON text of a weight in four bits."""
    return f"{weight}{_STATE}{state.quant_type}"


def quantization_config(quant_type: str, dtype: str) -> dict[str, Any]:
    """What config.json says of weights in one of PACKED_TYPES, computed with in `dtype`."""
    if quant_type == "int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
    }


def parse_quant_state(text: bytes, name: str) -> QuantState:
    """
    Raises:
        FormatError: it is not what bitsandbytes writes; `name` is told in the error.
    """
    try:
        document = json.loads(text)
        state = QuantState(
            quant_type=document["quant_type"],
            shape=tuple(document["shape"]),
            block_size=document["blocksize"],
            dtype=document["dtype"],
            nested_block_size=document.get("nested_blocksize", 0),
            nested_offset=float(document.get("nested_offset", 0.0)),
        )
        sizes = (*state.shape, state.block_size, state.nested_block_size)
        is_sane = all(type(size) is int and 0 <= size < 2**40 for size in sizes)
        is_sane = is_sane and 0 < state.block_size <= _MAX_BLOCK and state.block_size % 2 == 0
        is_sane = is_sane and math.isfinite(state.nested_offset)
        if is_sane and state.quant_type in _FOUR_BIT_TYPES and state.dtype in _DTYPES:
            return state
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass  # told below
    raise FormatError(f"{name} is not a quantization state that bitsandbytes writes")


def format_quant_state(state: QuantState) -> bytes:
    """The text as bitsandbytes has it: parse_quant_state(format_quant_state(s)) == s."""
    document: dict[str, Any] = {
        "quant_type": state.quant_type,
        "blocksize": state.block_size,
        "dtype": state.dtype,
        "shape": list(state.shape),
    }
    if state.nested_block_size:
        document |= {
            "nested_blocksize": state.nested_block_size,
            "nested_dtype": "float32",
            "nested_offset": state.nested_offset,
        }
    return json.dumps(document).encode()


def _states(
    tensors: Iterable[tuple[Path, SafetensorsTensor]],
) -> Iterator[tuple[str, QuantState]]:
    for path, tensor in tensors:
        weight, is_state, _ = tensor.name.partition(_STATE)
        if not is_state:
            continue
        if tensor.dtype != "U8" or tensor.size_bytes > MAX_STATE_BYTES:
            raise FormatError(f"{tensor.name} is not a text of at most {MAX_STATE_BYTES} bytes")
        with path.open("rb") as file:
            file.seek(tensor.offset)
            text = file.read(tensor.size_bytes)
        yield weight, parse_quant_state(text, tensor.name)


def _is_companion(
    name: str, states: Mapping[str, QuantState], named: Mapping[str, SafetensorsTensor]
) -> bool:
    module, _, end = name.rpartition(".")
    if end in {_SCALES, _FORMAT}:
        return f"{module}.weight" in named
    weight = name.partition(_STATE)[0] if _STATE in name else module
    return weight in states and (end in _COMPANIONS or _STATE in name)


def _sizes(name: str, state: QuantState) -> dict[str, int]:
    """The bytes of the tensors of a weight in four bits."""
    blocks = state.num_blocks
    expected = {name: -(-math.prod(state.shape) // 2), f"{name}.quant_map": 16 * 4}
    if state.nested_block_size:
        expected |= {
            f"{name}.absmax": blocks,
            f"{name}.nested_absmax": -(-blocks // state.nested_block_size) * 4,
            f"{name}.nested_quant_map": 256 * 4,
        }
    else:
        expected[f"{name}.absmax"] = blocks * 4
    return expected


def _check_four_bit(named: Mapping[str, SafetensorsTensor], name: str, state: QuantState) -> None:
    for tensor, size in _sizes(name, state).items():
        if tensor not in named:
            raise FormatError(f"{name} is in four bits, but the weights lack {tensor}")
        if named[tensor].size_bytes != size:
            raise FormatError(
                f"{tensor} has {named[tensor].size_bytes} bytes, its quantization state says {size}"
            )


def _check_eight_bit(named: Mapping[str, SafetensorsTensor], tensor: SafetensorsTensor) -> None:
    scales = named.get(scales_name(tensor.name))
    if scales is None or scales.dtype != "F32" or scales.shape != tensor.shape[:1]:
        raise FormatError(f"{tensor.name} is in eight bits, but the weights lack its rows' scales")
