"""Making models in a real store, quantized by a fake."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from olla.errors import (
    BadInput,
)
from olla.modelfile.build import build_model
from olla.names import ModelName
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import CreateRequest, Progress
from tests.modelfile.conftest import (
    write_gguf,
)


def upload(store: ModelStore, files: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(store.blobs.put(path.read_bytes())) for name, path in files.items()}


def fake_quantize(
    files: Mapping[str, Path], kind: str, output: Path, chat_template: str
) -> Generator[Progress, None, None]:
    """Writes the tiny model again, as a folder in nf4; `kind` "bad" is refused."""
    if kind == "bad":
        raise BadInput("unsupported quantization type bad")
    yield Progress("quantizing", "", 100, 50)
    if kind != "nf4":
        write_gguf(output, {})
        return
    output.mkdir()
    for name, path in files.items():
        (output / name).write_bytes(path.read_bytes())
    (output / "made.json").write_text("{}")


def build(store: ModelStore, model: str = "new", **fields: Any) -> list[str]:
    """The lines of the build."""
    steps = build_model(CreateRequest(model, **fields), store, fake_quantize)
    return [progress.status for progress in steps]


def resolve(store: ModelStore, name: str = "new") -> Model:
    return store.resolve(ModelName.parse(name))


def manifests(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store" / "manifests").rglob("*") if path.is_file()]
