"""A stored model written as a directory that transformers and peft load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.conversion.source import FloatModel
from olla.engine.weights.bnb import quantize_int8, quantize_nf4, stored_tensors
from olla.engine.weights.checkpoint import LAYERS, Checkpoint, SpecialTokens
from olla.engine.weights.gguf import GgufCheckpoint
from olla.engine.weights.lora import CONFIG
from olla.errors import BadInput
from olla.formats.bitsandbytes import quantization_config
from olla.quantization import PACKED_TYPES
from olla.runner.protocol import Adapter, Files

OnProgress = Callable[[int, int], None]

_UNSCALED = ("use_dora", "bias", "modules_to_save", "trainable_token_indices")
_SCALABLE: tuple[object, ...] = (None, False, "none", [], {})
_SHARD_BYTES = 4 * 2**30
_REWRITTEN = frozenset({"quantization_config", "torch_dtype", "base_vocab_size"})
_UNTIED = {"tie_word_embeddings": False}
_CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "granite": "GraniteForCausalLM", "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "olmo2": "Olmo2ForCausalLM",
}  # fmt: skip


def packing_of(quantization: str) -> str:
    """What users mean, "" for nothing, as `write_repository` takes it.

    Raises:
        BadInput: it is a type that only GGUF has.
    """
    packing = quantization.lower()
    if packing not in {"", *PACKED_TYPES}:
        raise BadInput(
            "a folder for transformers is written in bfloat16, or quantized to "
            f"{' or '.join(PACKED_TYPES)}; {quantization} is for GGUF"
        )
    return packing


def copy_files(files: Files, folder: Path, on_progress: OnProgress) -> None:
    """A repository as it is stored."""
    sizes = {name: Path(path).stat().st_size for name, path in files.items()}
    done, total = 0, sum(sizes.values())
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        done += sizes[name]
        on_progress(done, total)


def adapter_configs(adapters: Sequence[Adapter], base: str) -> list[dict[str, Any]]:
    """What peft's file says of each adapter that `write_adapters` puts beside the folder `base`.

    Raises:
        BadInput: one is in GGUF, or to a scale that peft's files cannot say.
    """
    if any(CONFIG not in adapter.files for adapter in adapters):
        raise BadInput("an adapter in GGUF is exported merged: add --merge")
    place = base if len(adapters) == 1 else f"../{base}"
    named = {"base_model_name_or_path": place, "revision": None}
    return [
        _scaled(json.loads(Path(adapter.files[CONFIG]).read_text()), adapter.scale) | named
        for adapter in adapters
    ]


def write_adapters(
    adapters: Sequence[Adapter], configs: Sequence[dict[str, Any]], folder: Path
) -> None:
    """Each adapter as peft saves it, with its `adapter_configs`; several get a folder each."""
    for number, (adapter, config) in enumerate(zip(adapters, configs, strict=True)):
        target = folder if len(adapters) == 1 else folder / f"adapter-{number}"
        target.mkdir(exist_ok=True)
        for name, path in adapter.files.items():
            shutil.copyfile(path, target / name)
        _write_json(target / CONFIG, config)


def _scaled(config: dict[str, Any], scale: float) -> dict[str, Any]:
    """The configuration of an adapter at another scale, which is one of alpha.

    Raises:
        BadInput: not all that the adapter changes grows with alpha.
    """
    if scale == 1.0:
        return config
    if any(config.get(key) not in _SCALABLE for key in _UNSCALED):
        raise BadInput(
            "an adapter with a scale of its own that is more than low rank (DoRA, biases, whole "
            "modules, tokens) is exported merged: add --merge"
        )
    alphas = {key: alpha * scale for key, alpha in (config.get("alpha_pattern") or {}).items()}
    alpha = config.get("lora_alpha", 8)  # peft's default
    return {**config, "lora_alpha": alpha * scale, "alpha_pattern": alphas}


class Parameters(Protocol):
    """A model's, by the names that its repository has for them."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def dtype(self) -> torch.dtype:
        """What they are written in."""
        ...

    @property
    def ties_head(self) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> Tensor:
        """A parameter in float32."""
        ...


def write_repository(
    model: Parameters, folder: Path, files: Files, on_progress: OnProgress, packing: str = ""
) -> None:
    """Weights anew, whatever else the repository has as it is.

    Args:
        folder: made if it is not there.
        packing: "nf4" or "int8" has the linears of the layers as bitsandbytes packs them.

    Raises:
        BadInput: an adapter gave the model a bias that its architecture lacks.
    """
    _check_biases(model)
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        if "safetensors" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    found = model.checkpoint.config
    config = {key: value for key, value in found.items() if key not in _REWRITTEN}
    if not model.ties_head:
        config |= _untied(config)
    _write_config(config, model.dtype, packing, folder)
    _write_weights(model, folder, _Packer(packing, model.dtype), on_progress)


def write_gguf_as_repository(
    model: FloatModel,
    folder: Path,
    chat_template: str,
    on_progress: OnProgress,
    packing: str = "",
) -> None:
    """A model out of a GGUF file: weights, config and tokenizer, in bfloat16 or packed."""
    checkpoint = model.checkpoint
    assert isinstance(checkpoint, GgufCheckpoint)
    _check_biases(model)
    tokenizer = checkpoint.tokenizer()
    special = checkpoint.special_tokens(tokenizer)
    config = _config_of_gguf(model) | _special_ids(tokenizer, special)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(special, chat_template))
    _write_config(config, model.dtype, packing, folder)
    _write_weights(model, folder, _Packer(packing, model.dtype), on_progress)


def _write_config(config: dict[str, Any], dtype: torch.dtype, packing: str, folder: Path) -> None:
    config["dtype"] = str(dtype).removeprefix("torch.")
    if packing:
        config["quantization_config"] = quantization_config(packing, config["dtype"])
    _write_json(folder / "config.json", config)


def _check_biases(model: Parameters) -> None:
    if isinstance(model, FloatModel) and model.added_biases:
        raise BadInput(
            f"merged, the adapter would give the model {model.added_biases[0]}, for which its "
            "architecture in transformers has no place: export without --merge, or to gguf"
        )


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers looks at the text's part of a config, or at the whole."""
    text = config.get("text_config")
    inner = {"text_config": {**text, **_UNTIED}} if isinstance(text, dict) else {}
    return {**inner, **_UNTIED}


def _write_weights(
    model: Parameters, folder: Path, packer: _Packer, on_progress: OnProgress
) -> None:
    names = [name for name in model.names if name != "rope_freqs.weight"]
    size = packer.dtype.itemsize
    num_bytes = {name: size * torch.Size(model.shape(name)).numel() for name in names}
    total = sum(num_bytes.values())
    where: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    done = 0
    for name in names:
        shard |= packer.tensors(name, model.read(name))
        done += num_bytes[name]
        on_progress(done, total)
        is_full = sum(tensor.nbytes for tensor in shard.values()) >= _SHARD_BYTES
        if is_full or name == names[-1]:
            where |= _write_shard(folder, shard, len(set(where.values())) + 1)
            shard = {}
    if len(set(where.values())) == 1:
        (folder / next(iter(where.values()))).rename(folder / "model.safetensors")
        return
    sizes = ((folder / name).stat().st_size for name in set(where.values()))
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": where}
    _write_json(folder / "model.safetensors.index.json", index)


class _Packer:
    """The tensors that are stored of a parameter."""

    def __init__(self, packing: str, dtype: torch.dtype) -> None:
        self._pack = {"nf4": quantize_nf4, "int8": quantize_int8}.get(packing)
        self.dtype = dtype

    def tensors(self, name: str, values: Tensor) -> dict[str, Tensor]:
        values = values.to(self.dtype).contiguous()
        if self._pack is None or values.ndim != 2 or not name.startswith(LAYERS):
            return {name: values}
        return stored_tensors(name, self._pack(values))


def _write_shard(folder: Path, shard: Mapping[str, Tensor], number: int) -> dict[str, str]:
    name = f"model-{number:05d}.safetensors"
    save_file(dict(shard), folder / name, {"format": "pt"})
    shutil.copymode(folder / "config.json", folder / name)  # safetensors makes it a private file
    return dict.fromkeys(shard, name)


def _config_of_gguf(model: FloatModel) -> dict[str, Any]:
    config = {key: value for key, value in model.checkpoint.config.items() if value != {}}
    model_type = str(config["model_type"])
    settings = model.config.rope
    if settings.scaling == "default" and "rope_freqs.weight" in model.checkpoint.names:
        raise BadInput("a GGUF file with rope_freqs cannot be exported to hf; export it to gguf")
    return {
        **config,
        "architectures": [_CLASSES[model_type]],
        "tie_word_embeddings": model.ties_head,
        "rope_parameters": {
            "rope_type": settings.scaling,
            "rope_theta": settings.theta,
            "partial_rotary_factor": settings.rotary_fraction,
            **({"factor": settings.factor} if settings.scaling == "linear" else {}),
        },
    }


def _special_ids(tokenizer: Tokenizer, special: SpecialTokens) -> dict[str, Any]:
    ends = sorted(special.end_ids)
    bos = tokenizer.token_to_id(special.bos_token) if special.bos_token else None
    return {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends}


def _tokenizer_config(special: SpecialTokens, chat_template: str) -> dict[str, Any]:
    found = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special.bos_token,
        "eos_token": special.eos_token,
        "chat_template": chat_template,
    }
    return {key: value for key, value in found.items() if value}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
