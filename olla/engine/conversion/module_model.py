"""ModuleModel: any model that transformers loads, with adapters merged into its own modules.

For what FloatModel has no names for. The whole model is in memory, in the precision of its files;
what is written has the names that the repository had. Invariant: a module that is not there, or a
part that does not fit, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from olla.engine.adapters import read_adapter
from olla.engine.conversion.merging import merged, parameters_of
from olla.engine.models.hf import load_module
from olla.engine.parts import Part, Replaced, TokenRows
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from olla.errors import BadInput, FormatError
from olla.formats.architectures import is_seeing
from olla.runner.protocol import Adapter, Files


class ModuleModel:
    def __init__(self, files: Files, adapters: Sequence[Adapter] = ()) -> None:
        """
        Args:
            files: a repository's, in floats.

        Raises:
            FormatError: transformers does not load it, or an adapter does not fit.
            BadInput: its weights are quantized.
        """
        paths = {name: Path(path) for name, path in files.items()}
        self.checkpoint = SafetensorsCheckpoint(paths)
        config = self.checkpoint.config
        if "quantization_config" in config:
            raise BadInput(
                "the weights are quantized already: export them as they are (--format hf without "
                "--merge), or export the model that they were made from"
            )
        sees = is_seeing(config)
        self._module = load_module(paths, "auto", torch.device("cpu"), sees=sees)
        parts = [
            replace(part, share=adapter.scale)
            for adapter in adapters
            for part in read_adapter(adapter.files, None)
        ]
        head, table = self._module.get_output_embeddings(), self._module.get_input_embeddings()
        was_tied = head is not None and head.weight is table.weight
        self.ties_head = was_tied and not any(self._changes_one(part) for part in parts)
        if was_tied and not self.ties_head:
            head.weight = nn.Parameter(head.weight.detach().clone())
            parts += [
                replace(part, module=_name_of(self._module, head))
                for part in parts
                if isinstance(part, TokenRows) and self._find(part.module) is table
            ]
        left = [p for module, found in _grouped(parts) for p in self._merge(module, found)]
        self._tensors = self._named()
        for part in left:
            self._merge_by_name(part)

    @property
    def names(self) -> list[str]:
        """Every parameter under the repository's own name, the head only if it is not tied."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> Tensor:
        """A parameter in float32."""
        return self._tensors[name].float()

    @property
    def config(self) -> Any:
        """transformers' own, of the part that is a language model, with its defaults."""
        return self._module.config.get_text_config()

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the files."""
        dtype: torch.dtype = self._module.dtype
        return dtype

    def _find(self, name: str) -> Any:
        try:
            return self._module.get_submodule(name)
        except AttributeError:
            return None

    def _changes_one(self, part: Part) -> bool:
        """Whether of a table and a head that are tied, only one stays what it was.

        Tokens that were trained change both.
        """
        ends = (self._module.get_output_embeddings(), self._module.get_input_embeddings())
        module = self._find(part.module)
        return module is not None and module in ends and not isinstance(part, TokenRows)

    @torch.no_grad()
    def _merge(self, name: str, parts: Sequence[Part]) -> Sequence[Part]:
        """Merge all that changes a module; what is left if there is no such module."""
        module = self._find(name)
        if module is None:
            return parts
        is_table = isinstance(module, nn.Embedding)
        for kind in dict.fromkeys(kind for part in parts for kind in parameters_of(part)):
            parameter = getattr(module, kind, None)
            if not isinstance(parameter, nn.Parameter):
                raise _no_parameter(f"{name}.{kind}")
            found = [part for part in parts if kind in parameters_of(part)]
            is_turned = isinstance(module, Conv1D) and kind == "weight"
            weight = parameter.float().T if is_turned else parameter.float()
            found = [_turned(part) if is_turned else part for part in found]
            values = merged(found, f"{name}.{kind}", weight, is_table=is_table)
            parameter.copy_(values.T if is_turned else values)
        return ()

    def _named(self) -> dict[str, Tensor]:
        """The parameters as the repository names them and has them apart, each once."""
        state: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self._module.state_dict().items():
            state.setdefault(tensor.data_ptr(), (name, tensor))
        found: dict[str, Tensor] = revert_weight_conversion(self._module, dict(state.values()))
        return found

    def _merge_by_name(self, part: Part) -> None:
        """For modules of an older transformers, such as each of a mixture's experts."""
        for kind in parameters_of(part):
            name = f"{part.module}.{kind}"
            if name not in self._tensors:
                raise _no_parameter(name)
            weight = self._tensors[name].float()
            self._tensors[name] = merged([part], name, weight).to(self._tensors[name].dtype)


def _grouped(parts: Sequence[Part]) -> Iterable[tuple[str, list[Part]]]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.module, []).append(part)
    return groups.items()


def _turned(part: Part) -> Part:
    """For a weight that stands the other way round than a linear's: what replaces it too."""
    return replace(part, values=part.values.T) if isinstance(part, Replaced) else part


def _name_of(module: Any, wanted: nn.Module) -> str:
    return next(str(name) for name, found in module.named_modules() if found is wanted)


def _no_parameter(name: str) -> FormatError:
    return FormatError(f"the base model has no parameter {name} to merge into")
