"""GGUF files in parts, written by llama.cpp's own Python writer."""

from __future__ import annotations

from pathlib import Path

import gguf


def split_gguf(source: Path, stem: Path, max_tensors: int, small_first: bool = False) -> list[Path]:
    """Write the file again, as parts of so many tensors; their paths in order.

    Args:
        stem: the path of the parts as far as `-00001-of-00003.gguf`.
        max_tensors: 0 writes it whole.
        small_first: the first part has the metadata only.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(
        stem.with_name(f"{stem.name}.gguf"),
        architecture.contents(),
        split_max_tensors=max_tensors,
        small_first_shard=small_first,
    )
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, *inner = field.types
        writer.add_key_value(field.name, field.contents(), kind, inner[0] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(stem.parent.glob(f"{stem.name}-*.gguf" if max_tensors else f"{stem.name}.gguf"))
