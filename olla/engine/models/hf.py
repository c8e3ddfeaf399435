"""Any other architecture: the causal language model that transformers itself has for it.

Sequences of a batch run one after the other, each with a cache of transformers' own, since not
every architecture can mix them. Adapters are laid over its `nn.Linear` modules by forward hooks.
Code that a repository carries is never run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from olla.engine.models.batch import Batch, Span
from olla.errors import FormatError


@dataclass(frozen=True, slots=True)
class HfConfig:
    """What the engine asks of a config, whatever the architecture."""

    architecture: str
    vocab_size: int
    context_length: int


class HfCache:
    """transformers' cache of one sequence."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.length = 0
        self.past = transformers.DynamicCache(config=config)

    @property
    def num_bytes(self) -> int:
        tensors = [
            tensor
            for layer in self.past.layers
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if tensor is not None
        ]
        return sum(tensor.nbytes for tensor in tensors)

    def truncate(self, length: int) -> None:
        """Forget everything, if less than everything is to be kept; its users keep all or none."""
        if length < self.length:
            assert length == 0
            self.past = transformers.DynamicCache(config=self._config)
            self.length = 0


class HfModel:
    def __init__(self, files: Mapping[str, Path], dtype: torch.dtype, device: torch.device) -> None:
        """Load a repository's files.

        Raises:
            FormatError: transformers has no causal language model for it, or its files are broken.
        """
        # transformers reads directories; a blob's name says nothing, so links give them theirs.
        with tempfile.TemporaryDirectory(prefix="olla-") as folder:
            _link(files, Path(folder))
            self._model = _from_pretrained(folder, dtype).to(device).eval()
        config = self._model.config.get_text_config()
        self.config = HfConfig(
            architecture=config.model_type,
            vocab_size=config.vocab_size,
            context_length=getattr(config, "max_position_embeddings", None) or 2048,
        )
        self._active_adapter = 0
        self._deltas: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}

    @property
    def num_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self._model.parameters())

    @torch.inference_mode()
    def forward(self, batch: Batch[HfCache]) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the caches hold the batch's tokens after."""
        rows = [row for span in batch.spans for row in self._run(batch, span)]
        return torch.stack(rows) if rows else torch.empty(0, self.config.vocab_size)

    def new_cache(self) -> HfCache:
        return HfCache(self._model.config.get_text_config())

    def add_adapter(self, adapter: int, module: str, a: Tensor, b: Tensor) -> None:
        """Lay a low-rank pair over the linear called `module`.

        Raises:
            FormatError: the model has no such linear, or the shapes are not its.
        """
        try:
            linear = self._model.get_submodule(module)
        except AttributeError as error:
            raise FormatError(f"the base model has no module {module}") from error
        if not isinstance(linear, nn.Linear):
            raise FormatError(
                f"{module} is of type {type(linear).__name__}, which olla lays no adapter over"
            )
        if (b.shape[0], a.shape[1]) != linear.weight.shape or a.shape[0] != b.shape[1]:
            raise FormatError(
                f"adapter for {module} is {tuple(a.shape)} and {tuple(b.shape)}, "
                f"the base is {tuple(linear.weight.shape)}"
            )
        if module not in self._deltas:
            self._deltas[module] = {}
            linear.register_forward_hook(self._hook(self._deltas[module]))
        self._deltas[module][adapter] = (a.to(linear.weight), b.to(linear.weight))

    def remove_adapter(self, adapter: int) -> None:
        for deltas in self._deltas.values():
            deltas.pop(adapter, None)

    def _run(self, batch: Batch[HfCache], span: Span[HfCache]) -> list[Tensor]:
        """One sequence's part of the batch; its rows of logits."""
        wanted = [
            row - span.start for row in batch.logit_rows.tolist() if span.start <= row < span.end
        ]
        self._active_adapter = next(
            (use.adapter for use in batch.adapters if bool((use.rows == span.start).any())), 0
        )
        logits = self._model(
            input_ids=batch.tokens[span.start : span.end][None],
            past_key_values=span.cache.past,
            use_cache=True,
        ).logits[0]
        span.cache.length += span.end - span.start
        return [logits[row].float() for row in wanted]

    def _hook(self, deltas: dict[int, tuple[Tensor, Tensor]]) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            pair = deltas.get(self._active_adapter)
            return output if pair is None else output + (inputs[0] @ pair[0].T) @ pair[1].T

        return add


def _link(files: Mapping[str, Path], folder: Path) -> None:
    """Give each file its name in `folder`, and never one outside it."""
    for name, path in files.items():
        link = folder / name
        if not link.resolve().is_relative_to(folder.resolve()):
            raise FormatError(f"the model has a file called {name!r}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _from_pretrained(folder: str, dtype: torch.dtype) -> Any:
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FormatError(f"transformers cannot load this model: {reason}") from error
