"""Files -> a model ready to compute, on the device and in the precision that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from olla.engine.cpu_threads import choose_threads
from olla.engine.cuda_graphs import CudaRecorder, Record
from olla.engine.matrices import Matrices, TorchMatrices
from olla.engine.matrices_cuda import BnbMatrices, has_bitsandbytes
from olla.engine.memory import is_out_of_memory
from olla.engine.models.batch import CausalModel
from olla.engine.models.config import read_count
from olla.engine.models.decoder import Decoder
from olla.engine.models.families import FAMILIES, decoder_config
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import Core, Kind, find_library
from olla.engine.native.packed import Packing
from olla.engine.placement import Plan
from olla.engine.weights.checkpoint import Checkpoint, CheckpointParameters, SpecialTokens, Storage
from olla.engine.weights.gguf import GgufCheckpoint
from olla.engine.weights.resized import ResizedCheckpoint
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from olla.errors import BadInput, OutOfMemory
from olla.formats.architectures import can_see

if TYPE_CHECKING:
    from olla.engine.images import ImageReader

OnProgress = Callable[[int, int], None]
"""Told the bytes read so far and the bytes of all weights."""


_log = logging.getLogger(__name__)
_NO_Q8_CACHE = (
    "keys and values stay in %s: OLLA_KV_CACHE_TYPE=q8_0 is for models whose steps the compiled "
    "core computes, which takes a CPU, OLLA_DTYPE=auto and one of the decoder's families"
)
_QUANTIZED = {"int8": Storage.EIGHT_BIT, "int4": Storage.FOUR_BIT, "nf4": Storage.FOUR_BIT}


@dataclass(frozen=True, slots=True)
class Precision:
    """`dtype` is computed in. `wanted` is how matrices are kept, None as the file has them.

    `keeps_quantized` says whether they then stay quantized.
    """

    dtype: torch.dtype
    keeps_quantized: bool
    wanted: Storage | None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`images` reads them, for models that look at images.

    `base_vocab_size`: without an adapter only so many tokens are known.
    """

    network: CausalModel
    tokenizer: Tokenizer
    special_tokens: SpecialTokens
    device: torch.device
    dtype: torch.dtype
    base_vocab_size: int
    images: ImageReader | None = None
    record: Record | None = None
    """How steps that decode are recorded, where that pays."""

    @property
    def num_bytes(self) -> int:
        return self.network.num_bytes


def load_model(
    files: Mapping[str, str],
    dtype: str,
    device: str,
    num_threads: int,
    on_progress: OnProgress,
    *,
    quantize: str = "auto",
    kv_cache_type: str = "auto",
    plan: Plan | None = None,
) -> LoadedModel:
    """Load a GGUF file (`{"model.gguf": path}`) or a Hugging Face repository's files.

    Args:
        num_threads: CPU threads; 0 takes one for each core that the process may use.
        quantize: one of `options.QUANTIZATIONS`; "auto" leaves it to the file.
        kv_cache_type: one of `variables.KV_CACHE_TYPES`; the log says where it cannot be had.
        plan: which layers go where; all to `device` without one.

    Raises:
        FormatError: the files are broken or of a kind that olla does not run.
        BadInput: there is no such device, or it does not quantize so.
        OutOfMemory: the weights do not fit.
    """
    torch.set_num_threads(threads := choose_threads(num_threads))
    place = choose_device(device if plan is None else plan.rest)
    library = find_library() if place.type == "cpu" else None
    checkpoint = open_checkpoint(files)
    precision = precision_of(checkpoint, dtype, quantize, place, has_core=library is not None)
    core, precision = choose_core(library, checkpoint, precision)
    cache_kind = Kind.Q8 if kv_cache_type == "q8_0" else Kind.F16
    if place.type == "cpu":
        _log.info("core variant=%s threads=%d", core.name if core else "none (torch)", threads)
    with _out_of_memory_explained(checkpoint, place):
        network = load_network(
            checkpoint, files, precision, place, on_progress, plan, core, cache_kind
        )
    if cache_kind is Kind.Q8 and not isinstance(network, NativeDecoder):
        _log.warning(_NO_Q8_CACHE, precision.dtype)
    return _loaded(network, checkpoint, files, place, precision.dtype)


def _loaded(
    network: CausalModel,
    checkpoint: Checkpoint,
    files: Mapping[str, str],
    device: torch.device,
    dtype: torch.dtype,
) -> LoadedModel:
    tokenizer = checkpoint.tokenizer()
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        special_tokens=checkpoint.special_tokens(tokenizer),
        device=device,
        dtype=dtype,
        images=_image_reader(checkpoint, files, tokenizer),
        base_vocab_size=read_count(checkpoint.config, "base_vocab_size", network.config.vocab_size),
        record=recorder(network, device),
    )


def recorder(network: CausalModel, device: torch.device) -> Record | None:
    """CUDA graphs for a lean decoder on one GPU, whose every product is torch's own.

    A mixture chooses its products by what it computes, which no recording can do again.
    """
    is_whole = isinstance(network, Decoder) and network.is_dense and not network.config.experts
    return CudaRecorder() if device.type == "cuda" and is_whole else None


def load_network(
    checkpoint: Checkpoint,
    files: Mapping[str, str],
    precision: Precision,
    device: torch.device,
    on_progress: OnProgress,
    plan: Plan | None = None,
    core: Core | None = None,
    cache_kind: Kind = Kind.F16,
) -> CausalModel:
    """The lean decoder where it knows the architecture, else transformers' own module.

    Args:
        cache_kind: how the core keeps keys and values.

    Raises:
        BadInput: the latter is to be quantized on a GPU, which olla does not do.
    """
    if checkpoint.config.get("model_type") in FAMILIES:
        reading = _Reading(checkpoint.total_bytes, on_progress)
        parameters = CheckpointParameters(
            checkpoint,
            precision.dtype,
            device,
            reading.on_read,
            precision.keeps_quantized,
            precision.wanted,
            None if plan is None else lambda name: torch.device(plan.device_of(name)),
            _matrices(core, precision, device),
        )
        decoder = Decoder(decoder_config(checkpoint.config), parameters)
        return decoder if core is None else NativeDecoder(decoder, core, cache_kind)
    return _load_hf(checkpoint, files, precision, device, on_progress, core)


def _load_hf(
    checkpoint: Checkpoint,
    files: Mapping[str, str],
    precision: Precision,
    device: torch.device,
    on_progress: OnProgress,
    core: Core | None,
) -> CausalModel:
    if precision.wanted is not None and device.type != "cpu":
        raise BadInput(
            f"models of type {checkpoint.config.get('model_type')} run in the precision of their "
            "files on a GPU; set quantize to auto"
        )
    # Imported here, since it takes seconds that the lean decoder's models do not spend.
    from olla.engine.models.hf import HfModel  # noqa: PLC0415
    from olla.engine.models.hf_quantized import Quantizing  # noqa: PLC0415

    paths = {name: Path(path) for name, path in files.items()}
    quantizing = None
    if precision.wanted is not None:
        matrices = TorchMatrices() if core is None else Packing(core)
        quantizing = Quantizing(precision.wanted, matrices)
    return HfModel(paths, precision.dtype, device, on_progress, quantizing)


def _matrices(core: Core | None, precision: Precision, device: torch.device) -> Matrices:
    if core is not None:
        return Packing(core)
    return BnbMatrices(precision.dtype) if device.type == "cuda" else TorchMatrices()


def keeps_packed(checkpoint: Checkpoint) -> bool:
    """Whether a GPU can compute with what bitsandbytes packed as it is."""
    storages = {checkpoint.storage(name) for name in checkpoint.names}
    is_lean = checkpoint.config.get("model_type") in FAMILIES
    return is_lean and Storage.PACKED in storages and has_bitsandbytes()


def _image_reader(
    checkpoint: Checkpoint, files: Mapping[str, str], tokenizer: Tokenizer
) -> ImageReader | None:
    if not can_see(checkpoint.config, files):
        return None
    # Imported here, as the models that look at images are.
    from olla.engine.images import ImageReader  # noqa: PLC0415

    return ImageReader({name: Path(path) for name, path in files.items()}, tokenizer)


def choose_core(
    library: Path | None, checkpoint: Checkpoint, precision: Precision
) -> tuple[Core | None, Precision]:
    """The compiled core for what it computes: whole steps of the lean decoder's families, and what
    is quantized of others.
    """
    if library is None or not precision.keeps_quantized:
        return None, precision
    if precision.wanted is None:
        is_float = {checkpoint.storage(name) for name in checkpoint.names} == {Storage.FLOAT}
        is_lean = checkpoint.config.get("model_type") in FAMILIES
        if not is_lean or (is_float and not computes_floats(library)):
            return None, precision
    return Core(library, torch.get_num_threads()), replace(precision, dtype=torch.float32)


def open_checkpoint(files: Mapping[str, str]) -> Checkpoint:
    paths = {name: Path(path) for name, path in files.items()}
    gguf = [path for name, path in paths.items() if name.endswith(".gguf")]
    if gguf:
        return GgufCheckpoint(gguf[0])
    checkpoint = SafetensorsCheckpoint(paths)
    return ResizedCheckpoint(checkpoint) if "base_vocab_size" in checkpoint.config else checkpoint


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first GPU, else the CPU.

    Raises:
        BadInput: there is none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"OLLA_DEVICE={name}: this machine has no such device") from error
    return device


def choose_precision(
    dtype: str, quantize: str, device: torch.device, *, has_core: bool = False
) -> Precision:
    """
    Args:
        has_core: the compiled core computes what is quantized on the CPU, else torch does.

    Raises:
        BadInput: what is asked for cannot be had on the device.
    """
    kind = choose_dtype(dtype, device)
    wanted = _QUANTIZED.get(quantize)
    if wanted is None:
        is_fast = has_core or computes_quantized(kind, device)
        keeps = quantize == "auto" and dtype == "auto" and is_fast
        return Precision(kind, keeps, None)
    if device.type == "cuda" and quantize == "int4":
        raise BadInput("quantize int4 is for CPUs; on a GPU use nf4")
    if device.type != "cuda" and quantize == "nf4":
        raise BadInput("quantize nf4 needs a CUDA GPU; on a CPU use int4")
    if device.type != "cuda":
        if dtype not in {"auto", "bfloat16"}:
            raise BadInput(f"quantize {quantize} chooses its own precision; set OLLA_DTYPE to auto")
        kind = torch.bfloat16
    return Precision(kind, keeps_quantized=True, wanted=wanted)


def precision_of(
    checkpoint: Checkpoint,
    dtype: str,
    quantize: str,
    device: torch.device,
    *,
    has_core: bool = False,
) -> Precision:
    """What `choose_precision` says, but for what a GPU computes with as bitsandbytes packed it."""
    precision = choose_precision(dtype, quantize, device, has_core=has_core)
    if device.type == "cuda" and quantize == "auto" and keeps_packed(checkpoint):
        return replace(precision, keeps_quantized=True)
    return precision


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision called `name`; "auto" is bfloat16 where the hardware computes in it."""
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    has_bfloat16 = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def computes_floats(library: Path) -> bool:
    """Whether the core is to have models of floats too (docs/benchmarks.md).

    It reads their weights twice as fast as torch, in the file's precision, but multiplies in
    float32: prompts are faster in torch where the CPU has tiles of bfloat16 (AMX).
    """
    return library.stem != "core_portable" and not torch.cpu._is_amx_tile_supported()


def computes_quantized(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch has fast kernels for quantized weights here: bfloat16 on x86 with AVX2."""
    fast = {"AVX2", "AVX512"}
    is_fast = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in fast
    return is_fast and dtype is torch.bfloat16


@contextmanager
def _out_of_memory_explained(checkpoint: Checkpoint, device: torch.device) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = checkpoint.total_bytes / 2**30
        raise OutOfMemory(
            f"model requires more system memory than is available on {device}: "
            f"its weights alone are {size:.1f} GiB"
        ) from error


class _Reading:
    def __init__(self, total_bytes: int, on_progress: OnProgress) -> None:
        self._total_bytes = total_bytes
        self._completed_bytes = 0
        self._on_progress = on_progress

    def on_read(self, num_bytes: int) -> None:
        self._completed_bytes += num_bytes
        self._on_progress(self._completed_bytes, self._total_bytes)
