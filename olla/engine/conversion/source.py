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
from olla.engine.conversion.merging import merged, parameters_of
from olla.engine.loading import open_checkpoint
from olla.engine.models.config import DecoderConfig
from olla.engine.models.families import FAMILIES, decoder_config
from olla.engine.parts import Part, TokenRows
from olla.engine.weights.gguf_lora import Heads
from olla.errors import BadInput, FormatError
from olla.runner.protocol import Adapter, Files

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def has_names(files: Files) -> bool:
    """Whether the model's parameters have the names that FloatModel knows."""
    if any(name.endswith(".gguf") for name in files):
        return True
    config = open_checkpoint(files).config
    return config.get("model_type") in FAMILIES and decoder_config(config).experts is None


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
    def names(self) -> list[str]:
        """Every parameter, the head only where it is not the embedding."""
        names = [name for name in self.checkpoint.names if name != HEAD]
        return [*names, *self.added_biases, *([] if self.ties_head else [HEAD])]

    @property
    def added_biases(self) -> list[str]:
        """Those that only the adapters have."""
        known = set(self.checkpoint.names)
        return [name for name in self._changes if name.endswith(".bias") and name not in known]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of a repository's files; of a GGUF file bfloat16."""
        named = self.checkpoint.config.get("dtype") or self.checkpoint.config.get("torch_dtype")
        return _DTYPES.get(str(named), torch.bfloat16)

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
        return merged(self._changes.get(name, ()), name, values, is_table=name == EMBEDDING)

    def _add(self, part: Part, scale: float) -> None:
        scaled = replace(part, share=scale)
        for kind in parameters_of(part):
            self._changes.setdefault(f"{part.module}.{kind}", []).append(scaled)
        if self.ties_head and f"{part.module}.weight" == EMBEDDING:
            # Tokens that were trained change a tied head too; after anything else it stands apart.
            head = self._changes.setdefault(HEAD, [])
            if isinstance(part, TokenRows):
                head.append(scaled)

    def _check(self) -> None:
        known = {name.rpartition(".")[0] for name in self.checkpoint.names} | {"lm_head"}
        strangers: Iterable[str] = self._changes.keys() - set(self.names)
        for name in strangers:
            if name.rpartition(".")[0] not in known:
                raise FormatError(f"the base model has no parameter {name} to merge into")
