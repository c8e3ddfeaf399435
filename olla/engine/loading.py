"""Files -> a model ready to compute, on the device and in the precision that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from olla.engine.models.batch import CausalModel
from olla.engine.models.decoder import Decoder
from olla.engine.models.families import FAMILIES, decoder_config
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import Core, find_library
from olla.engine.native.packed import Packing
from olla.engine.weights.checkpoint import Checkpoint, CheckpointParameters, SpecialTokens
from olla.engine.weights.gguf import GgufCheckpoint
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from olla.errors import BadInput, OutOfMemory

OnProgress = Callable[[int, int], None]
"""Told the bytes read so far and the bytes of all weights."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    network: CausalModel
    tokenizer: Tokenizer
    special_tokens: SpecialTokens
    device: torch.device
    dtype: torch.dtype
    num_bytes: int


def load_model(
    files: Mapping[str, str], dtype: str, device: str, num_threads: int, on_progress: OnProgress
) -> LoadedModel:
    """Load a GGUF file (`{"model.gguf": path}`) or a Hugging Face repository's files.

    Args:
        num_threads: CPU threads to compute with; 0 leaves it to torch.

    Raises:
        FormatError: the files are broken or of a kind that olla does not run.
        BadInput: there is no such device.
        OutOfMemory: the weights do not fit.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    checkpoint = open_checkpoint(files)
    try:
        keeps_quantized = dtype == "auto" and place.type == "cpu" and checkpoint.is_quantized
        if keeps_quantized and (core := open_core()) is not None:
            kind = torch.float32
            network = load_native(checkpoint, core, on_progress)
        else:
            keeps_quantized = keeps_quantized and computes_quantized(kind, place)
            network = load_network(checkpoint, files, kind, place, keeps_quantized, on_progress)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = checkpoint.total_bytes / 2**30
        raise OutOfMemory(
            f"model requires more system memory than is available on {place}: "
            f"its weights alone are {size:.1f} GiB"
        ) from error
    tokenizer = checkpoint.tokenizer()
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        special_tokens=checkpoint.special_tokens(tokenizer),
        device=place,
        dtype=kind,
        num_bytes=network.num_bytes,
    )


def load_network(
    checkpoint: Checkpoint,
    files: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
    keep_quantized: bool,
    on_progress: OnProgress,
) -> CausalModel:
    """The lean decoder where it knows the architecture, else transformers' own module."""
    if checkpoint.config.get("model_type") in FAMILIES:
        reading = _Reading(checkpoint.total_bytes, on_progress)
        parameters = CheckpointParameters(
            checkpoint, dtype, device, reading.on_read, keep_quantized
        )
        return Decoder(decoder_config(checkpoint.config), parameters)
    # Imported here, since it takes seconds that the lean decoder's models do not spend.
    from olla.engine.models.hf import HfModel  # noqa: PLC0415

    paths = {name: Path(path) for name, path in files.items()}
    return HfModel(paths, dtype, device, on_progress)


def open_core() -> Core | None:
    """The compiled core with torch's number of threads; None where it was not built."""
    library = find_library()
    return None if library is None else Core(library, torch.get_num_threads())


def load_native(checkpoint: Checkpoint, core: Core, on_progress: OnProgress) -> CausalModel:
    """A quantized model of the lean decoder's families, computed by the compiled core."""
    reading = _Reading(checkpoint.total_bytes, on_progress)
    parameters = CheckpointParameters(
        checkpoint,
        torch.float32,
        torch.device("cpu"),
        reading.on_read,
        keep_quantized=True,
        matrices=Packing(core),
    )
    return NativeDecoder(Decoder(decoder_config(checkpoint.config), parameters), core)


def open_checkpoint(files: Mapping[str, str]) -> Checkpoint:
    paths = {name: Path(path) for name, path in files.items()}
    gguf = [path for name, path in paths.items() if name.endswith(".gguf")]
    return GgufCheckpoint(gguf[0]) if gguf else SafetensorsCheckpoint(paths)


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


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch has a class of its own for that on GPUs only."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def computes_quantized(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch has fast kernels for quantized weights here: bfloat16 on x86 with AVX2."""
    fast = {"AVX2", "AVX512"}
    is_fast = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in fast
    return is_fast and dtype is torch.bfloat16


class _Reading:
    def __init__(self, total_bytes: int, on_progress: OnProgress) -> None:
        self._total_bytes = total_bytes
        self._completed_bytes = 0
        self._on_progress = on_progress

    def on_read(self, num_bytes: int) -> None:
        self._completed_bytes += num_bytes
        self._on_progress(self._completed_bytes, self._total_bytes)
