"""The lean decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP or experts.

One small module for every family in families.py; they differ only by DecoderConfig. It computes
a ragged batch: the new tokens of many sequences in one flat row. Parameters carry Hugging Face
names (`model.layers.0.self_attn.q_proj.weight` ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from olla.engine.attention import attend_batch
from olla.engine.linear import AdapterRows, Embedding, Linear
from olla.engine.matrices import Dense, Matrix
from olla.engine.models.batch import Batch, picked_rows
from olla.engine.models.config import DecoderConfig, LayerConfig, NormPlacement, QkNorm
from olla.engine.models.mlp import MLP, Experts
from olla.engine.models.norm import RMSNorm
from olla.engine.models.overlay import Module, Place, lay_over, take_off
from olla.engine.models.placed import placed
from olla.engine.models.projections import Parameters, fused
from olla.engine.models.rope import Rope, rotate
from olla.engine.parts import Part

RopeTables = tuple[Tensor, Tensor]


class Decoder:
    """A model of the lean family, loaded."""

    def __init__(self, config: DecoderConfig, parameters: Parameters) -> None:
        rows, columns = config.vocab_size, config.hidden_size
        self.config = config
        self.embedding = parameters.table("model.embed_tokens.weight", rows, columns)
        self.tokens = Embedding(self.embedding)
        # Narrowed first, as the reference keeps the factor in the model's dtype.
        self._embedding_scale = self.embedding.like.new_tensor(config.embedding_scale)
        # Rounded, they would turn far positions elsewhere.
        factors = parameters.take_optional(
            "rope_freqs.weight", (config.head_dim // 2,), torch.float32
        )
        device = self.embedding.like.device
        self.rope = Rope(config.rope, config.head_dim, device, factors)
        self.local_rope = Rope(config.local_rope, config.head_dim, device)
        blocks = (Block(config, index, parameters) for index in range(len(config.layers)))
        self.blocks = placed(blocks, device)
        self.norm = _norm(config, parameters, "model.norm", config.hidden_size)
        head = parameters.matrix_optional("lm_head.weight", rows, columns)
        self.head = Linear(self.embedding if head is None else head)
        self.ties_head = head is None

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the cache holds the batch's tokens after."""
        adapters = picked_rows(batch.adapters, batch.logit_rows)
        return self.logits(self.norm(self._states(batch)[batch.logit_rows], adapters), adapters)

    @torch.inference_mode()
    def hidden_states(self, batch: Batch) -> Tensor:
        """What the logits of every token would be made of, (num_tokens, hidden_size)."""
        return self.norm(self._states(batch), batch.adapters)

    def logits(self, states: Tensor, adapters: Sequence[AdapterRows]) -> Tensor:
        """Normed states (num_rows, hidden_size) -> (num_rows, vocab_size) float32."""
        logits = self.head(states, adapters).float()
        logits *= self.config.logit_scale
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def embedded(self, batch: Batch) -> Tensor:
        """The states that the first layer takes, (num_tokens, hidden_size)."""
        return self.tokens(batch.tokens, batch.adapters) * self._embedding_scale

    def _states(self, batch: Batch) -> Tensor:
        embedded = self.embedded(batch)
        tables = self.rope.tables(batch.positions, embedded.dtype)
        local_tables = self.local_rope.tables(batch.positions, embedded.dtype)
        # What all layers add to is never narrowed: that is two fifths of what bfloat16 would lose.
        states = embedded.float()
        for block, layer in zip(self.blocks, self.config.layers, strict=True):
            states = block(states, batch, local_tables if layer.uses_local_rope else tables)
        return states

    @property
    def num_bytes(self) -> int:
        """Memory of the matrices; a head tied to the embedding counts once."""
        ends: set[Matrix] = {self.head.weight, self.embedding}
        return sum(end.num_bytes for end in ends) + sum(part.num_bytes for part in self._linears)

    @property
    def is_dense(self) -> bool:
        """Whether every matrix is one plain tensor, all on one device."""
        matrices = [self.embedding, self.head.weight, *(part.weight for part in self._linears)]
        home = self.embedding.like.device
        return all(isinstance(m, Dense) and m.like.device == home for m in matrices)

    @property
    def _linears(self) -> list[Linear]:
        return [linear for block in self.blocks for linear in block.linears]

    @property
    def cache_bytes_per_token(self) -> int:
        size = self.config.num_kv_heads * self.config.head_dim * self.embedding.like.element_size()
        return 2 * len(self.blocks) * size

    def add_adapter(self, adapter: int, parts: Sequence[Part]) -> None:
        """Lay an adapter over the model.

        Raises:
            FormatError: a part does not fit; some may have been laid over already.
        """
        lay_over(self, adapter, parts)

    def remove_adapter(self, adapter: int) -> None:
        take_off(self, adapter)

    def modules(self) -> Iterator[tuple[str, Module]]:
        """What adapters can change, by Hugging Face's names."""
        yield "model.embed_tokens", self.tokens
        yield "model.norm", self.norm
        yield "lm_head", Place(self.head, 0, self.config.vocab_size)
        for index, block in enumerate(self.blocks):
            for name, module in block.modules.items():
                yield f"model.layers.{index}.{name}", module


class Block:
    """One layer: attention, then a gated MLP or a mixture of them, each added to what came in."""

    def __init__(self, config: DecoderConfig, index: int, parameters: Parameters) -> None:
        prefix = f"model.layers.{index}"
        hidden = config.hidden_size
        pre, post = _norm_names(config.norm_placement)
        self._residual_scale = config.residual_scale
        self.pre = [_norm(config, parameters, f"{prefix}.{name}", hidden) for name in pre]
        self.post = [_norm(config, parameters, f"{prefix}.{name}", hidden) for name in post]
        self.attention = Attention(config, config.layers[index], index, parameters)
        self.mlp: MLP | Experts
        if config.layers[index].has_experts:
            self.mlp = Experts(config, f"{prefix}.mlp", parameters)
        else:
            self.mlp = MLP(config, f"{prefix}.mlp", parameters, config.intermediate_size)
        self._dtype = self.attention.qkv.weight.like.dtype
        self.modules: dict[str, Module] = {
            **{f"self_attn.{name}": where for name, where in self.attention.modules.items()},
            **{f"mlp.{name}": where for name, where in self.mlp.modules.items()},
            **dict(zip((*pre, *post), (*self.pre, *self.post), strict=True)),
        }

    def __call__(self, states: Tensor, batch: Batch, tables: RopeTables) -> Tensor:
        adapters = batch.adapters
        mixed = self.attention(self._before(0, states, adapters), batch, tables)
        states = states + self._after(0, mixed, adapters)
        mixed = self.mlp(self._before(1, states, adapters), adapters)
        return states + self._after(1, mixed, adapters)

    @property
    def linears(self) -> set[Linear]:
        return {module.linear for module in self.modules.values() if isinstance(module, Place)}

    def _before(self, half: int, states: Tensor, adapters: Sequence[AdapterRows]) -> Tensor:
        return self.pre[half](states, adapters) if self.pre else states.to(self._dtype)

    def _after(self, half: int, states: Tensor, adapters: Sequence[AdapterRows]) -> Tensor:
        states = self.post[half](states, adapters) if self.post else states
        return states if self._residual_scale == 1.0 else states * self._residual_scale


class Attention:
    """Queries, keys and values from one fused projection."""

    def __init__(
        self, config: DecoderConfig, layer: LayerConfig, index: int, parameters: Parameters
    ) -> None:
        prefix = f"model.layers.{index}.self_attn"
        head_dim, hidden = config.head_dim, config.hidden_size
        self._config, self._layer, self._index = config, layer, index
        self._scale = config.attention_scale or head_dim**-0.5
        q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
        self._sizes = [q_size, kv_size, kv_size]
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv, projections = fused(parameters, prefix, "qkv_proj", parts, hidden)
        self.out, out = fused(parameters, prefix, "o_proj", {"o_proj": hidden}, q_size)
        self.q_norm, self.k_norm = _qk_norms(config, parameters, prefix)
        norms = {"q_norm": self.q_norm, "k_norm": self.k_norm}
        self.modules: dict[str, Module] = {**projections, **out}
        self.modules |= {name: norm for name, norm in norms.items() if norm is not None}

    def __call__(self, states: Tensor, batch: Batch, tables: RopeTables) -> Tensor:
        projected = self.qkv(states, batch.adapters)
        queries, keys, values = torch.split(projected, self._sizes, dim=-1)
        queries, keys = self._normed(queries, keys, batch.adapters)
        if self._layer.uses_rope:
            queries, keys = rotate(queries, tables), rotate(keys, tables)
        mixed = attend_batch(
            self._index,
            queries,
            keys,
            self._heads(values),
            batch,
            scale=self._scale,
            sliding_window=self._layer.sliding_window,
            softcap=self._config.attention_softcap,
        )
        return self.out(mixed, batch.adapters)

    def _normed(
        self, queries: Tensor, keys: Tensor, adapters: Sequence[AdapterRows]
    ) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            return self._heads(queries), self._heads(keys)
        if self._config.qk_norm is QkNorm.FULL:
            queries, keys = self.q_norm(queries, adapters), self.k_norm(keys, adapters)
            return self._heads(queries), self._heads(keys)
        return self.q_norm(self._heads(queries), adapters), self.k_norm(self._heads(keys), adapters)

    def _heads(self, states: Tensor) -> Tensor:
        return states.reshape(states.shape[0], -1, self._config.head_dim)


def _norm(config: DecoderConfig, parameters: Parameters, name: str, size: int) -> RMSNorm:
    weight = parameters.take(f"{name}.weight", (size,))
    return RMSNorm(weight, config.norm_eps, config.norm_adds_one)


def _norm_names(placement: NormPlacement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The norms before and after attention and MLP, by their names in the checkpoint."""
    names = {
        NormPlacement.PRE: (("input_layernorm", "post_attention_layernorm"), ()),
        NormPlacement.POST: ((), ("post_attention_layernorm", "post_feedforward_layernorm")),
        NormPlacement.SANDWICH: (
            ("input_layernorm", "pre_feedforward_layernorm"),
            ("post_attention_layernorm", "post_feedforward_layernorm"),
        ),
    }
    return names[placement]


def _qk_norms(
    config: DecoderConfig, parameters: Parameters, prefix: str
) -> tuple[RMSNorm | None, RMSNorm | None]:
    if config.qk_norm is QkNorm.NONE:
        return None, None
    full = config.qk_norm is QkNorm.FULL
    q_size = config.num_heads * config.head_dim if full else config.head_dim
    k_size = config.num_kv_heads * config.head_dim if full else config.head_dim
    return (
        _norm(config, parameters, f"{prefix}.q_norm", q_size),
        _norm(config, parameters, f"{prefix}.k_norm", k_size),
    )
