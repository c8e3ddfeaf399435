"""Library: the compiled core, if this machine has one, and the C structures of core.h.

One shared library is built for each instruction set when olla is installed (hatch_build.py);
without a compiler there is none, and torch's own kernels do the work. Pointers handed over are
those of tensors that the caller keeps alive.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from enum import IntEnum
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


class Kind(IntEnum):
    """How a part of a matrix is held."""

    Q4 = 0
    Q8 = 1
    F16 = 2
    BF16 = 3
    F32 = 4


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
                "num_tokens", "num_spans", "num_logits", "num_slots",
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


def find_library(folder: Path = FOLDER) -> Path | None:
    """The fastest of the built libraries that this machine can run; None if there is none."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    names = ["core_avx2.so", "core_portable.so"] if has_avx2 else ["core_portable.so"]
    built = [folder / name for name in names if (folder / name).is_file()]
    return built[0] if built else None


class Core:
    """The loaded library with threads of its own; computes one call at a time."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """
        Raises:
            OSError: the file is no library for this machine.
        """
        self.name = path.stem
        self._library = ctypes.CDLL(str(path))
        self._library.olla_open.restype = c_void_p
        self._library.olla_open.argtypes = [c_int32]
        self._library.olla_close.argtypes = [c_void_p]
        self._library.olla_step.argtypes = [c_void_p, POINTER(CModel), POINTER(CStep)]
        for function in (self._library.olla_linear, self._library.olla_rows):
            function.argtypes = [c_void_p, POINTER(CLinear), c_void_p, c_int32, c_void_p]
        self._library.olla_pack.argtypes = [
            c_void_p, c_int32, c_void_p, c_void_p, c_int32, c_int32, c_void_p,
        ]  # fmt: skip
        self._handle = self._library.olla_open(num_threads)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._library.olla_close(self._handle)

    def step(self, model: CModel, step: CStep) -> None:
        self._library.olla_step(self._handle, model, step)

    def linear(self, linear: CLinear, inputs: int, num_rows: int, outputs: int) -> None:
        self._library.olla_linear(self._handle, linear, inputs, num_rows, outputs)

    def rows(self, linear: CLinear, numbers: int, count: int, outputs: int) -> None:
        self._library.olla_rows(self._handle, linear, numbers, count, outputs)

    def pack(
        self, kind: int, blocks: int, order: int | None, rows: int, columns: int, data: int
    ) -> None:
        self._library.olla_pack(self._handle, kind, blocks, order, rows, columns, data)
