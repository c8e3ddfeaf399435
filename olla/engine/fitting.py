"""Finding a way for a model to fit: sizes for a plan, then plan after plan until one loads.

What is estimated here decides where loading begins; what really fits is found out by loading.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch

from olla.engine.loading import Precision, choose_device, open_checkpoint, precision_of
from olla.engine.memory import release_unused
from olla.engine.models.families import FAMILIES, decoder_config
from olla.engine.placement import CPU, Gpu, Need, Plan, fallbacks, plan
from olla.engine.weights.checkpoint import Checkpoint, Storage
from olla.errors import OutOfMemory
from olla.runner.protocol import Load

_DEFAULT_WINDOW = 4096
_BITS = {Storage.EIGHT_BIT: 8.5, Storage.FOUR_BIT: 4.5}
_T = TypeVar("_T")

_log = logging.getLogger(__name__)


def choose_plan(request: Load, gpus: tuple[Gpu, ...]) -> Plan | None:
    """Where the model of a request goes at first; None where there is nothing to choose.

    Raises:
        FormatError: its files are broken.
        BadInput: as for `load_model`.
    """
    device = choose_device(request.device)
    if device.type != "cuda" or not gpus:
        return None
    if request.num_gpu == 0:
        return Plan((), CPU)
    main_gpu = request.main_gpu if device.index is None else device.index
    checkpoint = open_checkpoint(request.files)
    precision = precision_of(checkpoint, request.dtype, request.quantize, device)
    need = needed(checkpoint, precision, request)
    return plan(need, gpus, request.num_gpu, main_gpu)


def needed(checkpoint: Checkpoint, precision: Precision, request: Load) -> Need:
    """The sizes in memory of a model and of one that drafts for it, each with a window of cache."""
    need = _needed(checkpoint, precision, request.num_ctx, request.kv_cache_bytes or None)
    if not request.draft_files or request.speculate == "off":
        return need
    # A size that is set is that of both caches together.
    cache_bytes = 0 if request.kv_cache_bytes else None
    draft = _needed(open_checkpoint(request.draft_files), precision, request.num_ctx, cache_bytes)
    beside = sum(draft.layer_bytes) + draft.other_bytes
    return Need(need.layer_bytes, need.other_bytes + beside)


def _needed(
    checkpoint: Checkpoint, precision: Precision, num_ctx: int, cache_bytes: int | None
) -> Need:
    sizes = {name: kept_bytes(checkpoint, name, precision) for name in checkpoint.names}
    if checkpoint.config.get("model_type") not in FAMILIES:
        return Need((sum(sizes.values()) + (cache_bytes or 0),), 0)  # goes as a whole
    config = decoder_config(checkpoint.config)
    window = min(num_ctx or _DEFAULT_WINDOW, config.context_length)
    token_bytes = 2 * config.num_kv_heads * config.head_dim * precision.dtype.itemsize
    share = window * token_bytes if cache_bytes is None else cache_bytes // len(config.layers)
    layers = [share] * len(config.layers)
    for name, size in sizes.items():
        number = name.removeprefix("model.layers.").partition(".")[0]
        if number.isdigit() and int(number) < len(layers):
            layers[int(number)] += size
    weights_in_layers = sum(layers) - share * len(layers)
    return Need(tuple(layers), sum(sizes.values()) - weights_in_layers)


def kept_bytes(checkpoint: Checkpoint, name: str, precision: Precision) -> int:
    """Bytes of a parameter as it will be kept on a GPU."""
    keeps_packed = precision.wanted is None and precision.keeps_quantized
    if keeps_packed and checkpoint.storage(name) is Storage.PACKED:
        return checkpoint.packed_bytes(name)
    shape = checkpoint.shape(name) or ()
    is_product = len(shape) == 2 and "embed" not in name
    bits = _BITS.get(precision.wanted or Storage.FLOAT, 0) if is_product else 0
    return int(math.prod(shape) * (bits or 8 * precision.dtype.itemsize) / 8)


def first_that_fits(
    first: Plan | None, load: Callable[[Plan | None], _T]
) -> tuple[_T, Plan | None, str]:
    """Load by a plan, or else by what is tried next.

    Returns:
        What `load` gave, the plan that it was, and what had to be given up, "" for nothing.

    Raises:
        OutOfMemory: nothing fits.
    """
    note = ""
    options = iter(()) if first is None else fallbacks(first)
    tried = first
    while True:
        try:
            return load(tried), tried, note
        except OutOfMemory as error:
            following = next(options, None)
            if following is None:
                raise
            reason = str(error)
        release_unused()
        tried, note = following, f"did not fit on the GPU; loaded with {following}"
        _log.warning("out of memory, trying again plan=%r reason=%r", str(following), reason)


def gpus() -> tuple[Gpu, ...]:
    """This machine's GPUs and their free memory."""
    if not torch.cuda.is_available():
        return ()
    return tuple(
        Gpu(f"cuda:{index}", torch.cuda.mem_get_info(index)[0])
        for index in range(torch.cuda.device_count())
    )
