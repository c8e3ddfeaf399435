"""Whether a LoRA fits its base, told before it is stored: its shapes fit, its numbers are finite.

Takes what peft's LoraConfig makes, as far as it is a change of weights, and llama.cpp's LoRA in
GGUF. What would change the base in another way is refused by name, since it would be lost in
silence. Refuses only what is certain: architecture and shapes, never names of repositories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from olla.errors import BadInput, FormatError
from olla.formats.expert_tensors import expert_name
from olla.formats.finite import are_finite
from olla.formats.gguf import GgufTensor, MetadataValue, read_gguf
from olla.formats.lora_names import (
    MAGNITUDE,
    PAIRS,
    TOKENS,
    expert_stack,
    gguf_pairs,
    parse_lora_name,
)
from olla.formats.safetensors import SafetensorsTensor, read_safetensors
from olla.modelfile.base_weights import BaseShapes, Shape, is_embedding, is_head, read_object
from olla.modelfile.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from olla.registry.weights import GGUF_NAME

_DTYPES = frozenset({"F32", "F16", "BF16"})
_DEFAULT_RANK = 8  # peft's LoraConfig.r
_MAX_FLOAT = 3.4e38  # float32's

_UNSUPPORTED = {
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


def check_peft_adapter(adapter: Mapping[str, Path], base: Mapping[str, Path]) -> int:
    """Make sure that an adapter can be laid over a base.

    Returns:
        The size of the vocabulary that it enlarges the base's to; 0 if it leaves that alone.

    Args:
        adapter: `adapter_config.json` and safetensors.
        base: the base model's files, as a Model has them.

    Raises:
        BadInput: it does not fit, or it is of a kind that is not supported.
        FormatError: a file is broken.
    """
    config = read_object(adapter[ADAPTER_CONFIG], ADAPTER_CONFIG)
    _check_kind(config)
    ranks = _ranks(config)
    paths = [path for name, path in sorted(adapter.items()) if name != ADAPTER_CONFIG]
    headers = [(path, read_safetensors(path).tensors) for path in paths]
    modules = _modules(tensor for _, tensors in headers for tensor in tensors)
    shapes = BaseShapes.of(base, is_transposed=bool(config.get("fan_in_fan_out")))
    enlarged = _enlarged(modules, shapes)
    if enlarged:
        shapes = shapes.enlarged(enlarged)
    for module, found in modules.items():
        _check_module(module, found, shapes, ranks)
    for path, tensors in headers:
        _check_finite(path, tensors)
    return enlarged


def check_gguf_adapter(path: Path, base: Mapping[str, Path]) -> None:
    """The same for an adapter in GGUF, whose ranks are what its shapes say."""
    header = read_gguf(path)
    _check_gguf_kind(header.metadata, base)
    shapes = BaseShapes.of(base)
    architecture = str(header.metadata.get("general.architecture"))
    sides = {tensor.name: tensor.shape for tensor in header.tensors}
    for module, (a, b) in gguf_pairs(sides, architecture).items():
        _check_gguf_pair(module, sides[a], sides[b], shapes)
    _check_finite(path, [tensor for tensor in header.tensors if tensor.type.name in _DTYPES])


def _check_gguf_kind(adapter: Mapping[str, MetadataValue], base: Mapping[str, Path]) -> None:
    """The architecture is compared between GGUF files: a repository may call it otherwise."""
    if adapter.get("general.type") != "adapter":
        raise BadInput("the GGUF file is no adapter: its general.type is not adapter")
    kind, alpha = adapter.get("adapter.type", "lora"), adapter.get("adapter.lora.alpha", 0.0)
    if kind != "lora":
        raise BadInput(f"adapters of adapter.type {kind} are not supported, only lora")
    if not isinstance(alpha, int | float) or not abs(alpha) <= _MAX_FLOAT:
        raise FormatError("the adapter's adapter.lora.alpha is not a number")
    if GGUF_NAME in base:
        own, other = (
            metadata.get("general.architecture")
            for metadata in (adapter, read_gguf(base[GGUF_NAME]).metadata)
        )
        if own != other:
            raise _misfit(f"it was made for the architecture {own}, the base is {other}")


def _check_gguf_pair(module: str, a: Shape, b: Shape, shapes: BaseShapes) -> None:
    out_features, in_features = _linear(module, shapes)
    if is_embedding(module):  # llama.cpp keeps lora_a of an embedding by its rows
        out_features, in_features, a = in_features, out_features, a[::-1]
    if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != (out_features, in_features):
        raise _misfit(
            f"{module} is {_format(b)} and {_format(a)}, the base is {out_features}x{in_features}"
        )
    if a[0] != b[1]:
        raise FormatError(f"the adapter's {module} has ranks {a[0]} and {b[1]}")


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise BadInput(f"adapters of peft_type {kind} are not supported, only LORA")
    for key, feature in _UNSUPPORTED.items():
        if config.get(key):
            raise BadInput(f"adapters with {feature} ({key}) are not supported, only plain LoRA")
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
    if not all(type(alpha) in {int, float} and abs(alpha) <= _MAX_FLOAT for alpha in alphas):
        raise FormatError(f"{ADAPTER_CONFIG}: lora_alpha and alpha_pattern must be numbers")
    return frozenset(ranks)


def _settings(config: Mapping[str, Any], key: str, pattern: str, default: int) -> list[Any]:
    by_module = config.get(pattern) or {}
    if not isinstance(by_module, dict):
        raise FormatError(f"{ADAPTER_CONFIG}: {pattern} is not a JSON object")
    return [config.get(key, default), *by_module.values()]


_Found = dict[str, SafetensorsTensor]


def _modules(tensors: Iterable[SafetensorsTensor]) -> dict[str, _Found]:
    """Module -> what the adapter holds of it, such as "lora_A.weight"."""
    modules: dict[str, _Found] = {}
    for tensor in tensors:
        name = parse_lora_name(tensor.name)
        if name is None:
            raise BadInput(
                f"{tensor.name} in {ADAPTER_WEIGHTS} is not supported: only what peft saves of a "
                "LoRA is"
            )
        if tensor.dtype not in _DTYPES:
            raise BadInput(f"{tensor.name} has dtype {tensor.dtype}, only F32, F16 and BF16 can be")
        if not name.is_needless:
            modules.setdefault(name.module, {})[name.what] = tensor
    if not modules:
        raise FormatError(f"{ADAPTER_WEIGHTS} holds no LoRA weights")
    return modules


def _enlarged(modules: Mapping[str, _Found], shapes: BaseShapes) -> int:
    """How many tokens the adapter's own embedding and head know, if more than the base's; else 0.

    Raises:
        BadInput: it brings but one of the two.
    """
    sizes = {}
    for module, found in modules.items():
        base, own = shapes.get(module), found.get("weight")
        is_end = is_embedding(module) or is_head(module)
        if is_end and base and own and own.shape[1:] == base[1:] and own.shape[0] > base[0]:
            sizes[is_head(module)] = own.shape[0]
    if sizes and (len(sizes) < 2 or len(set(sizes.values())) > 1):
        raise _misfit(
            f"it was trained with a vocabulary of {max(sizes.values())} tokens, but holds only its "
            "embedding or only its head: train with modules_to_save [embed_tokens, lm_head], or "
            "merge it into its base (merge_and_unload) and create a model from that folder"
        )
    return max(sizes.values(), default=0)


def _check_module(module: str, found: _Found, shapes: BaseShapes, ranks: frozenset[int]) -> None:
    if stack := expert_stack(module):
        _check_experts(stack, found, shapes, ranks)
        return
    for a, b in PAIRS:
        if a in found or b in found:
            _check_pair(module, found, (a, b), shapes, ranks)
    for what in found.keys() & {"weight", "bias"}:
        _check_whole(module, what, found[what], shapes)
    rows = found.get(TOKENS)
    if rows is not None and rows.shape[1:] != _linear(module, shapes)[1:]:
        raise _misfit(f"{rows.name} is {_format(rows.shape)}, rows of the base have another length")
    out_features = _outputs(module, found, shapes)
    magnitude = found.get(MAGNITUDE)
    if magnitude is not None and magnitude.shape != (out_features,):
        got = _format(magnitude.shape)
        raise _misfit(f"{magnitude.name} is {got}, the base needs {out_features}")


def _check_experts(stack: str, found: _Found, shapes: BaseShapes, ranks: frozenset[int]) -> None:
    """A pair for all experts of a layer side by side, as peft has them for a tensor of theirs."""
    matrices = shapes.experts(expert_name(stack))
    if matrices is None:
        raise _misfit(f"it changes {stack}, and the base has no experts of that name")
    a, b = (found.get(side) for side in PAIRS[0])
    if a is None or b is None:
        raise FormatError(f"the adapter's {stack} lacks its lora_A or lora_B")
    if len(a.shape) != 2 or len(b.shape) != 2 or (b.shape[0], a.shape[1]) not in matrices:
        expected = " or ".join(_format(shape) for shape in matrices)
        raise _misfit(
            f"{stack} is {_format(b.shape)} and {_format(a.shape)}, each expert {expected}"
        )
    if a.shape[0] != b.shape[1] or all(a.shape[0] % rank for rank in ranks):
        raise FormatError(f"the adapter's {stack} has ranks {a.shape[0]} and {b.shape[1]}")


def _outputs(module: str, found: _Found, shapes: BaseShapes) -> int:
    """How many numbers a module gives for each token; 0 for what is not a matrix."""
    shape = shapes.get(module)
    if shape is None or len(shape) != 2:
        return 0
    return shape[1] if PAIRS[1][0] in found else shape[0]


def _check_pair(
    module: str, found: _Found, sides: tuple[str, str], shapes: BaseShapes, ranks: frozenset[int]
) -> None:
    for side, other in (sides, sides[::-1]):
        if side not in found:
            raise FormatError(
                f"{found[other].name} stands alone: {ADAPTER_WEIGHTS} lacks its "
                f"{side.removesuffix('.weight')}"
            )
    a, b = found[sides[0]], found[sides[1]]
    out_features, in_features = _linear(module, shapes)
    if sides == PAIRS[1]:
        out_features, in_features = in_features, out_features
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


def _check_whole(module: str, what: str, tensor: SafetensorsTensor, shapes: BaseShapes) -> None:
    expected = shapes.get(module) if what == "weight" else shapes.bias(module)
    if expected is None:
        raise _misfit(f"it changes {module}.{what}, which the base lacks")
    if tensor.shape == expected:
        return
    if (is_embedding(module) or is_head(module)) and tensor.shape[1:] == expected[1:]:
        raise BadInput(
            f"adapter does not fit the base model: it was trained with a vocabulary of "
            f"{tensor.shape[0]} tokens, the base has {expected[0]}; merge it into its base (peft's "
            "merge_and_unload, then save_pretrained) and create a model from that folder"
        )
    raise _misfit(f"{tensor.name} is {_format(tensor.shape)}, the base's is {_format(expected)}")


def _linear(module: str, shapes: BaseShapes) -> tuple[int, int]:
    shape = shapes.get(module)
    if shape is None or len(shape) != 2:
        raise _misfit(f"it changes {module}, which is no linear layer of the base")
    return shape[0], shape[1]


def _check_finite(path: Path, tensors: Iterable[SafetensorsTensor | GgufTensor]) -> None:
    with path.open("rb") as file:
        for tensor in tensors:
            file.seek(tensor.offset)
            dtype = tensor.dtype if isinstance(tensor, SafetensorsTensor) else tensor.type.name
            if not are_finite(file, dtype, tensor.size_bytes):
                raise FormatError(f"{tensor.name} holds a number that is not finite")


def _misfit(reason: str) -> BadInput:
    return BadInput(f"adapter does not fit the base model: {reason}")


def _format(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)
