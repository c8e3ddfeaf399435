"""Library: the compiled core, if this machine has one, and the C structures of core.h.

One shared library is built for each instruction set when olla is installed (hatch_build.py);
without a compiler there is none, and torch's own kernels do the work, as where a library does not
load. Pointers handed over are those of tensors that the caller keeps alive.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from pathlib import Path

FOLDER = Path(__file__).parent

_log = logging.getLogger(__name__)
OnBroken = Callable[[str], None]
"""Told why a library that was built does not load."""


class Kind(IntEnum):
    """How a part of a matrix is held."""

    Q2 = 0
    Q3 = 1
    Q4 = 2
    Q5 = 3
    Q6 = 4
    Q8 = 5
    F16 = 6
    BF16 = 7
    F32 = 8


class CPart(Structure):
    _fields_ = [("kind", c_int32), ("rows", c_int32), ("data", c_void_p)]


class CDelta(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("adapter", "rank", "start", "end", "kind")),
        *((name, c_void_p) for name in ("a", "b", "keep", "constant")),
    ]


class CNorm(Structure):
    _fields_ = [("adapter", c_int32), ("original", c_void_p), ("weight", c_void_p)]


class CLinear(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("rows", "columns", "num_parts", "num_deltas")),
        ("parts", POINTER(CPart)),
        ("deltas", POINTER(CDelta)),
        ("bias", c_void_p),
    ]


class CExperts(Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in ("count", "used", "normalizes", "intermediate", "shared_intermediate")
        ),
        ("router", CLinear),
        ("gate_up", POINTER(CLinear)),
        ("down", POINTER(CLinear)),
        *((name, CLinear) for name in ("shared_gate_up", "shared_down", "shared_gate")),
    ]


class CLayer(Structure):
    _fields_ = [
        *((name, CLinear) for name in ("qkv", "out", "gate_up", "down")),
        *(
            (name, c_void_p)
            for name in (
                "pre_attention", "post_attention", "pre_mlp", "post_mlp", "q_norm", "k_norm",
            )
        ),
        ("sliding_window", c_int32),
        ("rope", c_int32),
        ("experts", POINTER(CExperts)),
    ]  # fmt: skip


class CModel(Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                "hidden", "intermediate", "num_heads", "num_kv_heads", "head_dim", "num_layers",
                "norms_whole_projection", "uses_gelu",
            )
        ),
        *(
            (name, c_float)
            for name in (
                "eps", "attention_scale", "attention_softcap", "logit_softcap",
                "embedding_scale", "residual_scale", "logit_scale",
            )
        ),
        ("embedding", CLinear),
        ("head", CLinear),
        ("final_norm", c_void_p),
        ("layers", POINTER(CLayer)),
        ("norms", POINTER(CNorm)),
        ("num_norms", c_int32),
    ]  # fmt: skip


class CSpan(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("start", "end", "length")),
        ("slots", c_void_p),
    ]


class CStep(Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                "num_tokens", "num_spans", "num_logits", "num_slots", "cache_kind",
                "rotary_dim", "local_rotary_dim",
            )
        ),
        *((name, c_void_p) for name in ("tokens", "slots", "adapters", "logit_rows")),
        ("spans", POINTER(CSpan)),
        *((name, c_void_p) for name in ("cosines", "sines", "local_cosines", "local_sines")),
        ("keys", POINTER(c_void_p)),
        ("values", POINTER(c_void_p)),
        ("logits", c_void_p),
        ("hidden", c_void_p),
        ("embedded", c_void_p),
    ]  # fmt: skip


def find_libraries(folder: Path = FOLDER, on_broken: OnBroken = _log.warning) -> Iterator[Path]:
    """The built libraries that this machine can run, the fastest first."""
    portable = _opened(folder / "core_portable.so", on_broken)
    if portable is None:
        return
    portable.olla_variants.restype = c_char_p
    for name in portable.olla_variants().decode().split():
        path = folder / f"core_{name}.so"
        if _opened(path, on_broken) is not None:
            yield path


def find_library(folder: Path = FOLDER, on_broken: OnBroken = _log.warning) -> Path | None:
    """The fastest of them; None if none was built, or none loads."""
    return next(find_libraries(folder, on_broken), None)


def _opened(path: Path, on_broken: OnBroken) -> ctypes.CDLL | None:
    if not path.is_file():
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # of another machine, or of a newer system
        on_broken(f"the compiled core does not load: {error}")
        return None


class Core:
    """The loaded library with threads of its own; computes one call at a time."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """
        Raises:
            OSError: the file is no library for this machine.
        """
        self.name = path.stem
        self.num_threads = num_threads
        self.library = ctypes.CDLL(str(path))
        self.library.olla_open.restype = c_void_p
        self.library.olla_open.argtypes = [c_int32]
        self.library.olla_close.argtypes = [c_void_p]
        self.library.olla_step.argtypes = [c_void_p, POINTER(CModel), POINTER(CStep)]
        for function in (self.library.olla_linear, self.library.olla_rows):
            function.argtypes = [c_void_p, POINTER(CLinear), c_void_p, c_int32, c_void_p]
        self.library.olla_part_bytes.restype = c_int64
        self.library.olla_part_bytes.argtypes = [c_int32, c_int32, c_int32]
        self.library.olla_cache_bytes.restype = c_int64
        self.library.olla_cache_bytes.argtypes = [c_int32, c_int32, c_int32]
        self.library.olla_pack.argtypes = [
            c_void_p, c_int32, c_void_p, c_void_p, POINTER(CPart), c_int32,
        ]  # fmt: skip
        self.library.olla_affine_scales.argtypes = [
            c_void_p, c_void_p, c_int32, c_int32, c_void_p, c_void_p,
        ]  # fmt: skip
        self.library.olla_symmetric_scales.argtypes = [
            c_void_p, c_void_p, c_int32, c_int32, c_void_p,
        ]  # fmt: skip
        self.handle = self.library.olla_open(num_threads)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.library.olla_close(self.handle)

    def step(self, model: CModel, step: CStep) -> None:
        self.library.olla_step(self.handle, model, step)

    def linear(self, linear: CLinear, inputs: int, num_rows: int, outputs: int) -> None:
        self.library.olla_linear(self.handle, linear, inputs, num_rows, outputs)

    def rows(self, linear: CLinear, numbers: int, count: int, outputs: int) -> None:
        self.library.olla_rows(self.handle, linear, numbers, count, outputs)

    def part_bytes(self, kind: Kind, rows: int, columns: int) -> int:
        return int(self.library.olla_part_bytes(kind, rows, columns))

    def cache_bytes(self, kind: Kind, num_slots: int, head_dim: int) -> int:
        """The size of the keys, or the values, of one head in one layer."""
        return int(self.library.olla_cache_bytes(kind, num_slots, head_dim))

    def pack(self, type_: int, rows: int, order: int | None, part: CPart, columns: int) -> None:
        """Fill a part with rows of a file's `type_` at the address `rows`."""
        self.library.olla_pack(self.handle, type_, rows, order, part, columns)

    def affine_scales(
        self, groups: int, num_groups: int, most: int, scales: int, leasts: int
    ) -> None:
        """Of groups of 32 values: their best scales and least values for codes from 0 to `most`."""
        self.library.olla_affine_scales(self.handle, groups, num_groups, most, scales, leasts)

    def symmetric_scales(self, groups: int, num_groups: int, half: int, scales: int) -> None:
        """Of groups of 16 values: their best scales for codes from -half to half - 1."""
        self.library.olla_symmetric_scales(self.handle, groups, num_groups, half, scales)
