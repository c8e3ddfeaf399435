"""Tiny models as files of a hub's repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.numpy import save

from tests.formats.gguf_writer import tiny_model
from tests.modelfile.conftest import ADAPTER_CONFIG, CONFIG, HIDDEN, KV, lora_tensors, model_tensors

LICENSE = b"Do as you like.\n"


def safetensors_files(**more: bytes) -> dict[str, bytes]:
    """A repository as many are: the model, what a loader needs, and much that it does not."""
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"# Tiny\n",
        "LICENSE": LICENSE,
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages[0].content }}",
        "model.safetensors": save(model_tensors(), {"format": "pt"}),
        "pytorch_model.bin": b"pickled",
        "tf_model.h5": b"h5",
        "onnx/model.onnx": b"onnx",
        "original/consolidated.00.pth": b"pickled",
        "original/params.json": b"{}",
        "training_args.bin": b"pickled",
        **more,
    }


def sharded_files() -> dict[str, bytes]:
    tensors = model_tensors()
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[:5],
        "model-00002-of-00002.safetensors": names[5:],
    }
    weight_map = {name: file for file, inside in shards.items() for name in inside}
    files = safetensors_files()
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    for file, inside in shards.items():
        files[file] = save({name: tensors[name] for name in inside})
    return files


def gguf_bytes(label: str) -> bytes:
    return tiny_model(**{"general.name": label}).to_bytes()


def gguf_files(*labels: str) -> dict[str, bytes]:
    files = {f"Tiny-{label}.gguf": gguf_bytes(label) for label in labels}
    return {"README.md": b"# Tiny\n", "mmproj-Tiny-f16.gguf": b"GGUF eyes", **files}


def adapter_files(base: str | None, **changes: Any) -> Mapping[str, bytes]:
    tensors = lora_tensors("model.layers.1.self_attn.k_proj", (4, HIDDEN), (KV, 4))
    config = {**ADAPTER_CONFIG, "base_model_name_or_path": base, **changes}
    return {
        "README.md": b"# Tiny\n",
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
        "tokenizer.json": b"{}",
    }
