"""A stored model written as a directory that transformers and peft load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.conversion.source import FloatModel
from olla.engine.weights.bnb import quantize_int8, quantize_nf4, stored_tensors
from olla.engine.weights.checkpoint import LAYERS, SpecialTokens
from olla.engine.weights.gguf import GgufCheckpoint
from olla.engine.weights.lora import CONFIG
from olla.errors import BadInput
from olla.formats.bitsandbytes import QUANTIZED_TYPES, quantization_config
from olla.runner.protocol import Adapter, Files

OnProgress = Callable[[int, int], None]

_SHARD_BYTES = 4 * 2**30
_REWRITTEN = frozenset({"quantization_config", "torch_dtype", "base_vocab_size"})
_CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "granite": "GraniteForCausalLM", "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "olmo2": "Olmo2ForCausalLM",
}  # fmt: skip


def packing_of(quantization: str) -> str:
    """What users mean, "" for nothing, as write_model takes it.

    Raises:
        BadInput: it is a type that only GGUF has.
    """
    packing = quantization.lower()
    if packing not in {"", *QUANTIZED_TYPES}:
        raise BadInput(
            "a folder for transformers is written in bfloat16, or quantized to "
            f"{' or '.join(QUANTIZED_TYPES)}; {quantization} is for GGUF"
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


def write_adapters(adapters: Sequence[Adapter], folder: Path, base: str) -> None:
    """Each adapter as peft saves it, its base named; several get a folder each.

    Raises:
        BadInput: one is in GGUF, or to a scale that peft's files cannot say.
    """
    for number, adapter in enumerate(adapters):
        if CONFIG not in adapter.files or adapter.scale != 1.0:
            raise BadInput(
                "an adapter in GGUF, or with a scale of its own, is exported merged: add --merge"
            )
        target = folder if len(adapters) == 1 else folder / f"adapter-{number}"
        target.mkdir(parents=True, exist_ok=True)
        for name, path in adapter.files.items():
            shutil.copyfile(path, target / name)
        config = json.loads((target / CONFIG).read_text())
        (target / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": base}))


def write_model(
    model: FloatModel,
    folder: Path,
    chat_template: str,
    files: Files,
    on_progress: OnProgress,
    packing: str = "",
) -> None:
    """Weights, config and tokenizer, in bfloat16.

    Args:
        packing: "nf4" or "int8" has the linears of the layers as bitsandbytes packs them, and
            the rest in the precision of the model's files.
    """
    checkpoint = model.checkpoint
    if isinstance(checkpoint, GgufCheckpoint):
        config = _config_of_gguf(model)
        tokenizer = checkpoint.tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        special = checkpoint.special_tokens(tokenizer)
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(special, chat_template))
        config |= _special_ids(tokenizer, special)
    else:
        config = {**checkpoint.config, "tie_word_embeddings": model.ties_head}
        for name, path in files.items():
            if name.endswith((".json", ".jinja", ".model")) and "safetensors" not in name:
                shutil.copyfile(path, folder / name)
    dtype = model.dtype if packing else torch.bfloat16
    config = {
        key: config[key] for key in config if key not in {"quantization_config", "torch_dtype"}
    }
    config["dtype"] = str(dtype).removeprefix("torch.")
    if packing:
        config["quantization_config"] = quantization_config(packing, config["dtype"])
    _write_json(folder / "config.json", config)
    _write_weights(model, folder, _Packer(packing, dtype), on_progress)


def _write_weights(
    model: FloatModel, folder: Path, packer: _Packer, on_progress: OnProgress
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
        values = values.to(self.dtype)
        if self._pack is None or values.ndim != 2 or not name.startswith(LAYERS):
            return {name: values}
        return stored_tensors(name, self._pack(values))


def _write_shard(folder: Path, shard: Mapping[str, Tensor], number: int) -> dict[str, str]:
    name = f"model-{number:05d}.safetensors"
    save_file(dict(shard), folder / name, {"format": "pt"})
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
