"""The second half of a decoder's layer: a gated MLP, or a mixture of them.

Rows are grouped by expert, and a row's own experts are added up in the order of their numbers, so
what becomes of it does not depend on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.linear import AdapterRows, Linear
from olla.engine.models.batch import picked_rows
from olla.engine.models.config import DecoderConfig
from olla.engine.models.overlay import Module, Place
from olla.engine.models.projections import Parameters, fused


class MLP:
    """`down(activation(gate(x)) * up(x))`, gate and up in one fused projection."""

    def __init__(
        self, config: DecoderConfig, prefix: str, parameters: Parameters, size: int
    ) -> None:
        hidden = config.hidden_size
        parts = {"gate_proj": size, "up_proj": size}
        self.gate_up, gate_up = fused(parameters, prefix, "gate_up_proj", parts, hidden)
        self.down, down = fused(parameters, prefix, "down_proj", {"down_proj": hidden}, size)
        self.modules: dict[str, Module] = {**gate_up, **down}
        self._activation = _ACTIVATIONS[config.activation]

    def __call__(self, states: Tensor, adapters: Sequence[AdapterRows]) -> Tensor:
        gate, up = self.gate_up(states, adapters).chunk(2, dim=-1)
        return self.down(self._activation(gate) * up, adapters)


class Experts:
    """The sum of some MLPs of each row, chosen and weighted by a router, and of a shared one."""

    def __init__(self, config: DecoderConfig, prefix: str, parameters: Parameters) -> None:
        assert config.experts is not None
        self.settings, hidden = config.experts, config.hidden_size
        count, shared_size = self.settings.count, self.settings.shared_size
        # Rounded, it would send rows elsewhere.
        self.router = Linear(parameters.float_matrix(f"{prefix}.gate.weight", count, hidden))
        self.modules: dict[str, Module] = {"gate": Place(self.router, 0, count)}
        self.experts = [
            self._mlp(config, prefix, f"experts.{number}", parameters, self.settings.size)
            for number in range(count)
        ]
        self.shared: MLP | None = None
        if shared_size:
            self.shared = self._mlp(config, prefix, "shared_expert", parameters, shared_size)
            gate = parameters.float_matrix(f"{prefix}.shared_expert_gate.weight", 1, hidden)
            self.shared_gate = Linear(gate)
            self.modules["shared_expert_gate"] = Place(self.shared_gate, 0, 1)

    def __call__(self, states: Tensor, adapters: Sequence[AdapterRows]) -> Tensor:
        chosen, shares = self._route(states, adapters)
        mixed = torch.zeros_like(states)
        for number in torch.unique(chosen).tolist():
            rows, places = (chosen == number).nonzero(as_tuple=True)
            made = self.experts[number](states[rows], picked_rows(adapters, rows))
            mixed.index_add_(0, rows, made * shares[rows, places, None])
        if self.shared is not None:
            share = torch.sigmoid(self.shared_gate(states, adapters))
            mixed += share * self.shared(states, adapters)
        return mixed

    def _route(self, states: Tensor, adapters: Sequence[AdapterRows]) -> tuple[Tensor, Tensor]:
        """Each row's experts and their shares, both (num_rows, num_used)."""
        likes = torch.softmax(self.router(states, adapters).float(), dim=-1)
        shares, chosen = torch.topk(likes, self.settings.num_used, dim=-1)
        if self.settings.normalizes:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return chosen, shares.to(states.dtype)

    def _mlp(
        self, config: DecoderConfig, prefix: str, name: str, parameters: Parameters, size: int
    ) -> MLP:
        mlp = MLP(config, f"{prefix}.{name}", parameters, size)
        self.modules |= {f"{name}.{part}": place for part, place in mlp.modules.items()}
        return mlp


def _gelu_tanh(states: Tensor) -> Tensor:
    return functional.gelu(states, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": _gelu_tanh,
}
