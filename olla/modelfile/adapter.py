"""Whether an adapter fits its base, told from headers before anything is stored.

Takes LoRA as peft saves it: adapter_config.json and adapter_model.safetensors, pairs of matrices
beside linear layers and nothing else. Whatever would change the base in another way is refused
by name, since it would be lost in silence. Knows nothing about torch or manifests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from olla.errors import BadInput, FormatError
from olla.formats.safetensors import SafetensorsTensor, read_safetensors
from olla.modelfile.base_weights import Shape, linear_shapes, read_object
from olla.modelfile.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from olla.modelfile.uploads import Upload, is_weights
from olla.registry.manifest import Layer, MediaType

ONE_ADAPTER = "only one adapter is currently supported"

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_HEAD = "lm_head"
_DTYPES = frozenset({"F32", "F16", "BF16"})
_DEFAULT_RANK = 8  # peft's LoraConfig.r

_UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules trained beside the LoRA",
    "lora_bias": "trained biases",
    "trainable_token_indices": "trained token embeddings",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activation by tokens of the prompt",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo sampling",
    "use_bdlora": "block-diagonal matrices",
    "use_qalora": "QA-LoRA",
}
# These ways to begin change the base weights too, and only peft can do that again.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def import_adapter(uploads: tuple[Upload, ...], base: Mapping[str, Path]) -> tuple[Layer, ...]:
    """The layers of an uploaded adapter, once it is known to fit.

    Raises:
        BadInput: it is not one adapter as peft saves it, or it does not fit.
        FormatError: a file is broken.
    """
    if sum(is_weights(upload) for upload in uploads) > 1:
        raise BadInput(ONE_ADAPTER)
    found = {PurePosixPath(upload.name).name: upload for upload in uploads}
    if not found.keys() >= {ADAPTER_CONFIG, ADAPTER_WEIGHTS}:
        raise BadInput(
            f"an adapter is two files, as peft saves it: {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}; "
            "other kinds are not supported"
        )
    files = {name: found[name] for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    check_adapter({name: upload.path for name, upload in files.items()}, base)
    return tuple(
        upload.layer(MediaType.ADAPTER_FILE, f"0/{name}") for name, upload in files.items()
    )


def check_adapter(adapter: Mapping[str, Path], base: Mapping[str, Path]) -> None:
    """Make sure that an adapter can be laid over a base.

    Args:
        adapter: `adapter_config.json` and `adapter_model.safetensors`.
        base: the base model's files, as a Model has them.

    Raises:
        BadInput: it does not fit, or it is of a kind that is not supported.
        FormatError: a file is broken.
    """
    config = read_object(adapter[ADAPTER_CONFIG], ADAPTER_CONFIG)
    _check_kind(config)
    ranks = _ranks(config)
    pairs = _pairs(read_safetensors(adapter[ADAPTER_WEIGHTS]).tensors)
    linears = linear_shapes(base)
    for module, sides in pairs.items():
        if module == _HEAD:
            raise BadInput(f"adapters on {_HEAD} are not supported, only on layers before it")
        if module not in linears:
            raise _misfit(f"it changes {module}, which is no linear layer of the base")
        _check_pair(sides, linears[module], ranks)


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise BadInput(f"adapters of peft_type {kind} are not supported, only LORA")
    for key, feature in _UNSUPPORTED.items():
        if config.get(key):
            raise BadInput(f"adapters with {feature} ({key}) are not supported, only plain LoRA")
    bias = config.get("bias", "none")
    if bias != "none":
        raise BadInput(f"adapters with trained biases (bias: {bias}) are not supported")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise BadInput(
            f"adapters begun with {start} (init_lora_weights) are not supported: they change the "
            "base weights; save the adapter with path_initial_model_for_weight_conversion"
        )


def _ranks(config: Mapping[str, Any]) -> frozenset[int]:
    """The ranks that pairs may have: `r`, and those of `rank_pattern` for some modules."""
    ranks = _settings(config, "r", "rank_pattern", _DEFAULT_RANK)
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise FormatError(f"{ADAPTER_CONFIG}: r and rank_pattern must be ranks above 0")
    alphas = _settings(config, "lora_alpha", "alpha_pattern", 1)
    if not all(type(alpha) in {int, float} for alpha in alphas):
        raise FormatError(f"{ADAPTER_CONFIG}: lora_alpha and alpha_pattern must be numbers")
    return frozenset(ranks)


def _settings(config: Mapping[str, Any], key: str, pattern: str, default: int) -> list[Any]:
    by_module = config.get(pattern) or {}
    if not isinstance(by_module, dict):
        raise FormatError(f"{ADAPTER_CONFIG}: {pattern} is not a JSON object")
    return [config.get(key, default), *by_module.values()]


def _pairs(tensors: tuple[SafetensorsTensor, ...]) -> dict[str, dict[str, SafetensorsTensor]]:
    """Module -> its two sides, "A" and "B"."""
    pairs: dict[str, dict[str, SafetensorsTensor]] = {}
    for tensor in tensors:
        match = _KEY.fullmatch(tensor.name)
        if match is None:
            raise BadInput(
                f"{tensor.name} in {ADAPTER_WEIGHTS} is not supported: only lora_A and lora_B of "
                "linear layers are"
            )
        if tensor.dtype not in _DTYPES:
            raise BadInput(f"{tensor.name} has dtype {tensor.dtype}, only F32, F16 and BF16 can be")
        pairs.setdefault(match[1], {})[match[2]] = tensor
    if not pairs:
        raise FormatError(f"{ADAPTER_WEIGHTS} holds no LoRA weights")
    return pairs


def _check_pair(sides: Mapping[str, SafetensorsTensor], base: Shape, ranks: frozenset[int]) -> None:
    for side, other in (("A", "B"), ("B", "A")):
        if side not in sides:
            name = sides[other].name
            raise FormatError(f"{name} stands alone: {ADAPTER_WEIGHTS} lacks its lora_{side}")
    a, b = sides["A"], sides["B"]
    out_features, in_features = base
    if len(a.shape) != 2 or a.shape[1] != in_features:
        raise _misfit(f"{a.name} is {_format(a.shape)}, the base needs ?x{in_features}")
    if len(b.shape) != 2 or b.shape[0] != out_features:
        raise _misfit(f"{b.name} is {_format(b.shape)}, the base needs {out_features}x?")
    if a.shape[0] != b.shape[1] or a.shape[0] not in ranks:
        allowed = ", ".join(str(rank) for rank in sorted(ranks))
        raise FormatError(
            f"{a.name} is {_format(a.shape)} and its lora_B {_format(b.shape)}: the rank must be "
            f"the same, and as {ADAPTER_CONFIG} says ({allowed})"
        )


def _misfit(reason: str) -> BadInput:
    return BadInput(f"adapter does not fit the base model: {reason}")


def _format(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)
