"""Adapters over a module of transformers: forward hooks that change the rows that use them.

Linears and embeddings get deltas, any other module whose parameters an adapter replaced is run
again for the adapter's rows. Knows a module by its name, and nothing of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from olla.engine.linear import AdapterRows, Embedding, Linear, add_deltas
from olla.engine.matrices import Dense, Matrix
from olla.engine.models.hf_quantized import QuantizedEmbedding, QuantizedLinear
from olla.engine.models.overlay import Place, lay_deltas, take_off_deltas
from olla.engine.parts import Part, Replaced, TokenRows
from olla.errors import FormatError

RowsOf = Callable[[nn.Module], Sequence[AdapterRows]]
"""The adapters' rows among a module's inputs in the step that runs now."""


class HookedAdapters:
    def __init__(self, model: Any, rows_of: RowsOf) -> None:
        self._model = model
        self._rows_of = rows_of
        self._hooked: dict[str, _Hook] = {}

    def add(self, adapter: int, parts: Sequence[Part]) -> None:
        """Lay an adapter over the model.

        Raises:
            FormatError: there is no such module, or a part does not fit it.
        """
        for part in parts:
            self._hook(part.module).lay(adapter, part)
            if isinstance(part, TokenRows) and self._is_tied(part.module):
                self._hook(self._head_name()).lay(adapter, part)

    def remove(self, adapter: int) -> None:
        for hook in self._hooked.values():
            hook.take_off(adapter)

    def _hook(self, name: str) -> _Hook:
        if ".experts." in name:
            raise FormatError(
                f"the adapter changes {name}; olla lays adapters over experts of the lean "
                "decoder's families only"
            )
        if name not in self._hooked:
            try:
                module = self._model.get_submodule(name)
            except AttributeError as error:
                raise FormatError(f"the base model has no module {name}") from error
            hook = _hook_of(module)
            if hook is None:
                kind = type(module).__name__
                raise FormatError(f"{name} is of type {kind}, which olla lays no adapter over")
            self._hooked[name] = hook
            module.register_forward_hook(self._run(hook))
        return self._hooked[name]

    def _run(self, hook: _Hook) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if adapters := self._rows_of(module):
                hook.add(inputs[0], output, adapters)
            return output

        return add

    def _is_tied(self, name: str) -> bool:
        head = self._model.get_output_embeddings()
        module = self._model.get_submodule(name)
        return head is not None and head is not module and _held(head) is _held(module)

    def _head_name(self) -> str:
        head = self._model.get_output_embeddings()
        return next(str(name) for name, module in self._model.named_modules() if module is head)


class _Hook(Protocol):
    """What adapters change of one module's outputs."""

    def lay(self, adapter: int, part: Part) -> None: ...

    def take_off(self, adapter: int) -> None: ...

    def add(self, inputs: Tensor, output: Tensor, adapters: Sequence[AdapterRows]) -> None:
        """Change the rows of `output` in place."""
        ...


class _LinearHook:
    def __init__(self, module: nn.Linear | Conv1D | QuantizedLinear) -> None:
        matrix = _matrix(module)
        self._place = Place(Linear(matrix, module.bias), 0, matrix.shape[0])

    def lay(self, adapter: int, part: Part) -> None:
        lay_deltas(self._place, adapter, part)

    def take_off(self, adapter: int) -> None:
        take_off_deltas(self._place, adapter)

    def add(self, inputs: Tensor, output: Tensor, adapters: Sequence[AdapterRows]) -> None:
        # Some layers drop the dimension of one that stands for the batch.
        deltas = self._place.linear.deltas
        add_deltas(deltas, inputs.flatten(0, -2), output.flatten(0, -2), adapters)


class _EmbeddingHook:
    def __init__(self, module: nn.Embedding | QuantizedEmbedding) -> None:
        self._embedding = Embedding(_matrix(module))
        # Some architectures scale what they look up, and so what adapters add to it.
        self._scale = float(getattr(module, "embed_scale", 1.0))

    def lay(self, adapter: int, part: Part) -> None:
        lay_deltas(self._embedding, adapter, part)

    def take_off(self, adapter: int) -> None:
        take_off_deltas(self._embedding, adapter)

    def add(self, inputs: Tensor, output: Tensor, adapters: Sequence[AdapterRows]) -> None:
        rows = output.flatten(0, -2)
        rows /= self._scale
        self._embedding.change(rows, inputs.flatten(), adapters)
        rows *= self._scale


class _ReplacedHook:
    """Any other module: its parameters for an adapter, and what they make of its rows."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own = {name: p.detach() for name, p in module.named_parameters(recurse=False)}
        self._values: dict[int, dict[str, Tensor]] = {}
        self._is_again = False

    def lay(self, adapter: int, part: Part) -> None:
        own = self._own.get(part.parameter) if isinstance(part, Replaced) else None
        if not isinstance(part, Replaced) or own is None or own.shape != part.values.shape:
            kind = type(self._module).__name__
            raise FormatError(f"adapter for {part.module} does not fit the base's {kind}")
        values = self._values.setdefault(adapter, {})
        before = values.get(part.parameter, own)
        values[part.parameter] = before + part.share * (part.values.to(own) - own)

    def take_off(self, adapter: int) -> None:
        self._values.pop(adapter, None)

    def add(self, inputs: Tensor, output: Tensor, adapters: Sequence[AdapterRows]) -> None:
        if self._is_again:
            return
        self._is_again = True
        try:
            for adapter, rows in adapters:
                if adapter in self._values:
                    given, made = _by_row(inputs), _by_row(output)
                    made[rows] = torch.func.functional_call(
                        self._module, self._values[adapter], (given[rows],)
                    )
        finally:
            self._is_again = False


def _by_row(states: Tensor) -> Tensor:
    """Without the dimension of one that stands for the batch."""
    return states[0] if states.shape[0] == 1 and states.ndim > 2 else states


def _matrix(module: nn.Module) -> Matrix:
    """The weights (out_features, in_features) of a linear, the rows of an embedding."""
    if isinstance(module, QuantizedLinear | QuantizedEmbedding):
        return module.matrix
    assert isinstance(module.weight, Tensor)
    return Dense(module.weight.T if isinstance(module, Conv1D) else module.weight)


def _held(module: Any) -> object:
    """What holds a module's weights."""
    is_quantized = isinstance(module, QuantizedLinear | QuantizedEmbedding)
    return module.matrix if is_quantized else module.weight


def _hook_of(module: nn.Module) -> _Hook | None:
    if isinstance(module, nn.Linear | Conv1D | QuantizedLinear):
        return _LinearHook(module)
    if isinstance(module, nn.Embedding | QuantizedEmbedding):
        return _EmbeddingHook(module)
    has_children = next(module.children(), None) is not None
    return None if has_children or not list(module.parameters()) else _ReplacedHook(module)
