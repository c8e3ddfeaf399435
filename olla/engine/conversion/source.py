"""FloatModel: a stored model's parameters as floats, with adapters merged into them.

One reading for all outputs: Hugging Face's names and layouts, whatever file they come from. One
parameter at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from olla.engine.adapters import read_adapter
from olla.engine.loading import open_checkpoint
from olla.engine.models.config import DecoderConfig
from olla.engine.models.families import FAMILIES, decoder_config
from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.engine.weights.gguf_lora import Heads
from olla.errors import BadInput, FormatError
from olla.runner.protocol import Adapter, Files

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class FloatModel:
    def __init__(self, files: Files, adapters: Sequence[Adapter] = ()) -> None:
        """
        Raises:
            BadInput: an architecture whose parameters have no known names.
            FormatError: a file is broken, or an adapter changes what the model lacks.
        """
        self.checkpoint = open_checkpoint(files)
        model_type = self.checkpoint.config.get("model_type")
        if model_type not in FAMILIES:
            raise BadInput(f'unsupported architecture "{model_type}": olla cannot convert it')
        self.config: DecoderConfig = decoder_config(self.checkpoint.config)
        if self.config.experts is not None:
            raise BadInput(f"olla cannot convert mixtures of experts ({model_type}) yet")
        heads = Heads(self.config.num_heads, self.config.num_kv_heads)
        self._changes: dict[str, list[Part]] = {}
        has_head = HEAD in self.checkpoint.names
        self.ties_head = not has_head or bool(self.checkpoint.config.get("tie_word_embeddings"))
        for adapter in adapters:
            for part in read_adapter(adapter.files, heads):
                self._add(part, adapter.scale)
        if HEAD in self._changes:
            self.ties_head = False
        self._check()

    @property
    def dtype(self) -> torch.dtype:
        """What config.json says of the weights; bfloat16 where nothing does, as of GGUF files."""
        config = self.checkpoint.config
        name = str(config.get("dtype") or config.get("torch_dtype"))
        return {"float32": torch.float32, "float16": torch.float16}.get(name, torch.bfloat16)

    @property
    def names(self) -> list[str]:
        """Every parameter, the head only where it is not the embedding."""
        names = [name for name in self.checkpoint.names if name != HEAD]
        biases = [name for name in self._changes if name.endswith(".bias")]
        added = [name for name in biases if name not in names]
        return [*names, *added, *([] if self.ties_head else [HEAD])]

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.checkpoint.shape(name)
        if shape is None and name == HEAD:
            shape = self.checkpoint.shape(EMBEDDING)
        if shape is None:  # a bias that only adapters have
            shape = self.shape(f"{name.removesuffix('bias')}weight")[:1]
        return shape

    def read(self, name: str) -> Tensor:
        """A parameter in float32, with what the adapters change of it."""
        source = EMBEDDING if name == HEAD and HEAD not in self.checkpoint.names else name
        values = torch.zeros(self.shape(name))
        if self.checkpoint.shape(source) is not None:
            self.checkpoint.read(source, values)
        before = values.clone() if self._changes.get(name) else values
        for part in self._changes.get(name, ()):
            values += _change(part, name, before)
        return values

    def _add(self, part: Part, scale: float) -> None:
        scaled = replace(part, share=scale)
        kinds = ["weight"]
        if isinstance(part, Replaced):
            kinds = [part.parameter]
        elif isinstance(part, LowRank) and part.bias is not None:
            kinds.append("bias")
        for kind in kinds:
            self._changes.setdefault(f"{part.module}.{kind}", []).append(scaled)
        ends_alike = isinstance(part, TokenRows) and self.ties_head
        if ends_alike and f"{part.module}.weight" == EMBEDDING:
            self._changes.setdefault(HEAD, []).append(scaled)

    def _check(self) -> None:
        known = {name.rpartition(".")[0] for name in self.checkpoint.names} | {"lm_head"}
        strangers: Iterable[str] = self._changes.keys() - set(self.names)
        for name in strangers:
            if name.rpartition(".")[0] not in known:
                raise FormatError(f"the base model has no parameter {name} to merge into")


def _change(part: Part, name: str, weight: Tensor) -> Tensor:
    """What is added to the parameter `weight`, the base's own, in full size.

    Raises:
        FormatError: it does not fit.
    """
    try:
        return _unchecked_change(part, name, weight)
    except (RuntimeError, IndexError) as error:
        raise FormatError(f"the adapter does not fit {name}: {error}") from error


def _unchecked_change(part: Part, name: str, weight: Tensor) -> Tensor:
    if isinstance(part, Replaced):
        return part.share * (part.values - weight)
    if isinstance(part, TokenRows):
        change = torch.zeros_like(weight)
        change[part.tokens] = part.share * (part.rows - weight[part.tokens])
        return change
    if name.endswith(".bias"):
        assert part.bias is not None
        return part.share * part.bias.expand_as(weight)
    product = part.b @ part.a
    if name == EMBEDDING:
        product = product.T
    if part.magnitude is None:
        return part.share * product
    changed = weight + product
    along = 0 if name == EMBEDDING else 1
    lengths = torch.linalg.vector_norm(changed, dim=along, keepdim=True)
    magnitude = part.magnitude[None, :] if name == EMBEDDING else part.magnitude[:, None]
    merged: Tensor = changed * (magnitude / lengths)
    return part.share * (merged - weight)
