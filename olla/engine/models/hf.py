"""Any other architecture: the causal language model that transformers itself has for it.

Its attention layers are made to call ours, through transformers' attention interface, so a batch
mixes sequences over the same cache as the lean decoder's. A model that remembers anything beyond
keys and values cannot be run so; that is found out, and said, when it is loaded. Adapters are laid
over its modules by forward hooks. Code that a repository carries is never run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface

from olla.engine.attention import attend_batch
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows
from olla.engine.models.batch import Batch, Span, picked_rows
from olla.engine.models.hf_adapters import HookedAdapters
from olla.engine.models.hf_progress import OnProgress, reported
from olla.engine.models.hf_quantized import Quantizing, quantize_modules, quantized_bytes
from olla.engine.models.vision import Vision
from olla.engine.parts import Part
from olla.engine.weights.safetensors import SafetensorsCheckpoint, read_json
from olla.errors import FormatError
from olla.formats.architectures import is_seeing

_ATTENTION = "olla"
_PROBE = (5, 3, 7, 1, 4, 2, 6, 0)
_KNOWN_TENSORS = {"position_ids", "cache_position"}  # others (sinks, biases) change attention
_ROUNDINGS, _LEAST_TOLERANCE = 6, 1e-3
_QUANTIZED_TOLERANCE = 0.5  # inputs in 8 bits make a step of a last bit, and may change experts


@dataclass(frozen=True, slots=True)
class HfConfig:
    """What the engine asks of a config, whatever the architecture."""

    architecture: str
    vocab_size: int
    context_length: int


class HfModel:
    def __init__(
        self,
        files: Mapping[str, Path],
        dtype: torch.dtype,
        device: torch.device,
        on_progress: OnProgress,
        quantizing: Quantizing | None = None,
    ) -> None:
        """Load a repository's files.

        Args:
            on_progress: told the bytes read so far and the bytes of all weights.
            quantizing: None for a model whose weights stay floats.

        Raises:
            FormatError: transformers has no causal language model for it, it is of a kind that
                cannot share our cache, or its files are broken.
        """
        self._batch: Batch | None = None
        # How far back layers see: as their masks have it, and as our attention is told.
        self._masked_windows: set[int] = set()
        self._told_windows: set[int] = set()
        self._register()
        with reported(files, on_progress):
            sees = is_seeing(read_json(files, "config.json"))
            stored = dtype if quantizing is None else "auto"
            self._model = load_module(files, stored, device, sees=sees, attention=_ATTENTION)
        self._device = device
        self._vision = Vision(self._model, device) if sees else None
        # Whether it can leave out the logits that nobody asked for.
        self._keeps_logits = "logits_to_keep" in signature(self._model.forward).parameters
        self.config = _config(self._model)
        self._cache_bytes = self._probe(self._rounding())
        if quantizing is not None:
            quantize_modules(self._model, quantizing)
            self._model.to(dtype)
            self._cache_bytes = self._probe(_QUANTIZED_TOLERANCE)
        self._adapters = HookedAdapters(self._model, self._adapter_rows)
        self.config = replace(self.config, context_length=self._context_length())

    def _context_length(self) -> int:
        """Up to a window that only the mask knows, attention of everything is the same."""
        return min({self.config.context_length} | (self._masked_windows - self._told_windows))

    @property
    def num_bytes(self) -> int:
        floats: int = sum(parameter.nbytes for parameter in self._model.parameters())
        return floats + quantized_bytes(self._model)

    @property
    def cache_bytes_per_token(self) -> int:
        return self._cache_bytes

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the cache holds the batch's tokens after."""
        kept = {"logits_to_keep": batch.logit_rows} if self._keeps_logits else {}
        logits: Tensor = self._run(self._model, batch, **kept).logits[0]
        return (logits if self._keeps_logits else logits[batch.logit_rows]).float()

    @torch.inference_mode()
    def hidden_states(self, batch: Batch) -> Tensor:
        """What the logits of every token would be made of, (num_tokens, hidden_size)."""
        states: Tensor = self._run(self._model.base_model, batch).last_hidden_state[0]
        return states

    def _run(self, network: Any, batch: Batch, **settings: Any) -> Any:
        if self._vision is None:
            settings["input_ids"] = batch.tokens[None]
        else:
            settings["inputs_embeds"] = self._vision.embed(batch)[None]
        positions = batch.positions[None] if batch.axes is None else batch.axes[:, None]
        self._batch = batch
        self._register()
        try:
            return network(position_ids=positions, use_cache=False, **settings)
        finally:
            self._batch = None

    def _register(self) -> None:
        """Have attention called here; transformers has one table for all models of a process."""
        transformers.AttentionInterface.register(_ATTENTION, self._attend)
        AttentionMaskInterface.register(_ATTENTION, self._mask)

    def add_adapter(self, adapter: int, parts: Sequence[Part]) -> None:
        """Lay an adapter over the model.

        Raises:
            FormatError: there is no such module, or a part does not fit it.
        """
        if self._vision is not None:
            for part in parts:
                if ".language_model." not in part.module:
                    raise FormatError(
                        f"the adapter changes {part.module}; of a model that reads images, olla "
                        "lays adapters over the language model only"
                    )
        self._adapters.add(adapter, parts)

    def remove_adapter(self, adapter: int) -> None:
        self._adapters.remove(adapter)

    def _attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """transformers' attention interface: states are (1, num_heads, num_tokens, head_dim)."""
        self._told_windows.add(sliding_window or 0)
        foreign = [name for name in others if isinstance(others[name], Tensor)]
        if set(foreign) - _KNOWN_TENSORS:
            raise TypeError(f"its attention wants {', '.join(foreign)}")
        assert self._batch is not None, "attention runs inside forward() only"
        layer = getattr(module, "layer_idx", None)
        assert isinstance(layer, int), "every attention layer of transformers has its number"
        mixed = attend_batch(
            layer,
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            self._batch,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            sliding_window=sliding_window or 0,
            softcap=softcap or 0.0,
        )
        return mixed.reshape(1, query.shape[2], query.shape[1], -1), None

    def _mask(self, *_: Any, local_size: int | None = None, **__: Any) -> None:
        """Our attention knows itself who may see whom."""
        if local_size:
            self._masked_windows.add(local_size)

    def _adapter_rows(self, module: nn.Module) -> Sequence[AdapterRows]:
        """Which rows of a module's inputs belong to which adapters."""
        if self._batch is None or not self._batch.adapters:
            return ()
        if self._keeps_logits and module is self._model.get_output_embeddings():
            return picked_rows(self._batch.adapters, self._batch.logit_rows)
        return self._batch.adapters

    def _probe(self, tolerance: float) -> int:
        """Find out whether causal attention over keys and values is all that the model does.

        If it is, a text gives what it gives under the model's own attention, and in two parts
        what it gives in one.

        Args:
            tolerance: how far logits may be off, as a part of their norm.

        Returns:
            Bytes of keys and values for each token.
        """
        tokens = torch.tensor(_PROBE, device=self._device) % self.config.vocab_size
        cache = KVCache(len(_PROBE))
        try:
            own = self._own_logits(tokens)
            whole = self._run_alone(KVCache(len(_PROBE)), tokens, 0)
            parts = [
                self._run_alone(cache, tokens[:5], 0),
                self._run_alone(cache, tokens[5:], 5),
            ]
            error = max((logits - own).norm() for logits in (whole, torch.cat(parts)))
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, TypeError, RuntimeError, ValueError, LookupError) as error:
            raise FormatError(f"{self.config.architecture}: {_CANNOT} ({error})") from error
        num_layers = self._model.config.get_text_config().num_hidden_layers
        if cache.num_layers < num_layers or not error <= tolerance * own.norm():
            raise FormatError(f"{self.config.architecture}: {_CANNOT}")
        return cache.num_bytes // len(_PROBE)

    @torch.inference_mode()
    def _own_logits(self, tokens: Tensor) -> Tensor:
        """All logits of a text as the model's own attention has them."""
        self._model.set_attn_implementation(_attention("eager", self._vision is not None))
        logits: Tensor = self._model(input_ids=tokens[None], use_cache=False).logits[0].float()
        self._model.set_attn_implementation(_attention(_ATTENTION, self._vision is not None))
        return logits

    def _rounding(self) -> float:
        """How far logits may be off by the rounding of floats, as a part of their norm."""
        return max(_ROUNDINGS * torch.finfo(self._model.dtype).eps, _LEAST_TOLERANCE)

    def _run_alone(self, cache: KVCache, tokens: Tensor, start: int) -> Tensor:
        """The logits (num_tokens, vocab_size) of one sequence whose past is in `cache`."""
        end = start + len(tokens)
        positions = torch.arange(start, end, device=self._device)
        return self.forward(
            Batch(
                tokens=tokens,
                positions=positions,
                slots=positions,
                spans=[Span(0, len(tokens), slice(0, end))],
                logit_rows=torch.arange(len(tokens), device=self._device),
                cache=cache,
            )
        )


_CANNOT = (
    "this architecture is more than causal attention over keys and values, "
    "or hides its attention from transformers' interface, so olla cannot run it yet"
)


def _attention(name: str, sees: bool) -> str | dict[str, str]:
    """What transformers is told, so that images are looked at with attention of its own."""
    return {"text_config": name} if sees else name


def _config(model: Any) -> HfConfig:
    config = model.config.get_text_config()
    return HfConfig(
        architecture=model.config.model_type,
        vocab_size=config.vocab_size,
        context_length=getattr(config, "max_position_embeddings", None) or 2048,
    )


def load_module(
    files: Mapping[str, Path],
    dtype: torch.dtype | str,
    device: torch.device,
    *,
    sees: bool,
    attention: str = "eager",
) -> Any:
    """The module of transformers for a repository, to compute with.

    Args:
        dtype: "auto" is that of the files.
        sees: it looks at images.

    Raises:
        FormatError: transformers does not load it.
    """
    # transformers reads directories; a blob's name says nothing, so links give them theirs.
    with tempfile.TemporaryDirectory(prefix="olla-") as folder:
        link_files(files, Path(folder))
        return _from_pretrained(folder, dtype, device, _attention(attention, sees), sees=sees)


def _from_packed(kind: Any, config: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """With the values of what bitsandbytes packed, which transformers does not unpack alone."""
    del config.quantization_config
    with torch.device("meta"):
        model_class = type(kind.from_config(config))
    dtype = torch.float32 if settings["dtype"] == "auto" else settings["dtype"]
    unpacked = _unpacked(folder, dtype)
    return model_class.from_pretrained(None, config=config, state_dict=unpacked, **settings)


def _unpacked(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    checkpoint = SafetensorsCheckpoint(files)
    found: dict[str, Tensor] = {}
    for name in checkpoint.names:
        shape = checkpoint.shape(name)
        assert shape is not None
        found[name] = torch.empty(shape, dtype=dtype)
        checkpoint.read(name, found[name])
    return found


def link_files(files: Mapping[str, Path], folder: Path) -> None:
    """Give each file its name in `folder`, and never one outside it."""
    for name, path in files.items():
        link = folder / name
        if not link.resolve().is_relative_to(folder.resolve()):
            raise FormatError(f"the model has a file called {name!r}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _loaded(kind: Any, folder: str, settings: dict[str, Any]) -> Any:
    """With rows for the tokens that an adapter brings, where the base has fewer."""
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    text_config = config.get_text_config()
    own = getattr(config, "base_vocab_size", 0)
    vocab_size = text_config.vocab_size if own else 0
    if own:
        text_config.vocab_size = own
    if getattr(config, "quantization_config", None) is None:
        model = kind.from_pretrained(folder, config=config, trust_remote_code=False, **settings)
    else:
        model = _from_packed(kind, config, Path(folder), settings)
    if own < vocab_size:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
    return model


def _from_pretrained(
    folder: str,
    dtype: torch.dtype | str,
    device: torch.device,
    attention: str | dict[str, str],
    *,
    sees: bool,
) -> Any:
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    settings = {
        "dtype": dtype,
        "attn_implementation": attention,
        "local_files_only": True,
        "use_safetensors": True,
    }
    try:
        model = _loaded(kind, folder, settings)
        if dtype == "auto" and model.dtype is torch.float16:
            model.float()  # halves that overflow would show as an attention of its own
        return model.to(device).eval()
    except torch.OutOfMemoryError:
        raise
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        if error.args == (_ATTENTION,):  # it looks its attention up in a table of its own
            raise FormatError(_CANNOT) from error
        reason = str(error).strip().partition("\n")[0]
        raise FormatError(f"transformers cannot load this model: {reason}") from error
