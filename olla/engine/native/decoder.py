"""NativeDecoder: the lean decoder with whole steps computed by the compiled core.

It is made of a Decoder whose matrices are Packed, and shares its weights, rotary tables and
adapters; what it adds is the C description of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Array, c_void_p, pointer

import torch
from torch import Tensor

from olla.engine.blocks import BLOCK_SIZE
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows, Linear
from olla.engine.models.batch import Batch, Span, picked_rows
from olla.engine.models.config import DecoderConfig, QkNorm
from olla.engine.models.decoder import Block, Decoder
from olla.engine.models.mlp import MLP, Experts
from olla.engine.models.norm import RMSNorm
from olla.engine.native.deltas import CoreDelta, core_delta
from olla.engine.native.library import (
    CDelta,
    CExperts,
    CLayer,
    CLinear,
    CModel,
    CNorm,
    Core,
    CSpan,
    CStep,
    Kind,
)
from olla.engine.native.packed import packed
from olla.engine.parts import Part

_NO_ROPE, _ROPE, _LOCAL_ROPE = range(3)


class NativeDecoder:
    def __init__(self, decoder: Decoder, core: Core, cache_kind: Kind = Kind.F16) -> None:
        """Args:
        cache_kind: how keys and values are kept, F16 or Q8.
        """
        self.config: DecoderConfig = decoder.config
        self._decoder = decoder
        self._core = core
        self._cache_kind = cache_kind
        self._vocab_size = packed(decoder.embedding).shape[0]
        self._uses_local_rope = any(layer.uses_local_rope for layer in self.config.layers)
        self._layers = (CLayer * len(decoder.blocks))()
        self._cache: KVCache | None = None
        self._cache_pointers: tuple[object, object] = ((), ())
        self._described: list[object] = []  # that what is handed to the core points to
        self._deltas: dict[Linear, dict[int, list[CoreDelta]]] = {}
        self._model = _c_model(decoder, self._layers)
        self._describe_layers()

    @property
    def num_bytes(self) -> int:
        return self._decoder.num_bytes

    @property
    def cache_bytes_per_token(self) -> int:
        return 2 * len(self.config.layers) * self._layer_bytes(BLOCK_SIZE) // BLOCK_SIZE

    def _layer_bytes(self, num_slots: int) -> int:
        """The size of a layer's keys, or values."""
        size = self._core.cache_bytes(self._cache_kind, num_slots, self.config.head_dim)
        return self.config.num_kv_heads * size

    def is_batch_invariant(self, adapter: int) -> bool:
        """Whether logits under it are the same however many rows are computed together.

        The core's are. torch computes what changes the embedding or the head.
        """
        rows = (AdapterRows(adapter, torch.empty(0, dtype=torch.int64)),)
        is_changed = self._decoder.tokens.is_changed_by(rows)
        return adapter not in self._decoder.head.deltas and not is_changed

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the cache holds the batch's tokens after."""
        if any(number in self._decoder.head.deltas for number, _ in batch.adapters):
            states = self._normed_states(batch, batch.logit_rows.int())
            return self._decoder.logits(states, picked_rows(batch.adapters, batch.logit_rows))
        logits = torch.empty(len(batch.logit_rows), self.config.vocab_size)
        self._step(batch, batch.logit_rows.int(), logits.data_ptr(), None)
        return logits

    @torch.inference_mode()
    def hidden_states(self, batch: Batch) -> Tensor:
        """What the logits of every token would be made of, (num_tokens, hidden_size)."""
        return self._normed_states(batch, torch.arange(len(batch.tokens), dtype=torch.int32))

    def _normed_states(self, batch: Batch, rows: Tensor) -> Tensor:
        states = torch.empty(len(rows), self.config.hidden_size)
        self._step(batch, rows, None, states.data_ptr())
        return states

    def _step(self, batch: Batch, rows: Tensor, logits: int | None, hidden: int | None) -> None:
        tokens, slots = batch.tokens.int(), batch.slots.int()
        self._check(tokens)
        is_changed = self._decoder.tokens.is_changed_by(batch.adapters)
        embedded = self._decoder.embedded(batch).contiguous() if is_changed else None
        adapters = _adapters(len(tokens), batch.adapters)
        tables = self._decoder.rope.tables(batch.positions, torch.float32)
        local_tables = tables
        if self._uses_local_rope:
            local_tables = self._decoder.local_rope.tables(batch.positions, torch.float32)
        spans, where = _spans(batch.spans)
        keys, values = self._pointers(batch.cache)
        self._core.step(
            self._model,
            CStep(
                len(tokens), len(spans), len(rows), batch.cache.num_slots, self._cache_kind,
                tables[0].shape[-1], local_tables[0].shape[-1], tokens.data_ptr(),
                slots.data_ptr(), adapters.data_ptr(), rows.data_ptr(), spans, tables[0].data_ptr(),
                tables[1].data_ptr(), local_tables[0].data_ptr(), local_tables[1].data_ptr(),
                keys, values, logits, hidden,
                None if embedded is None else embedded.data_ptr(),
            ),
        )  # fmt: skip
        del where  # the step read it

    def _check(self, tokens: Tensor) -> None:
        """The core reads rows without looking; a tokenizer may know more than the embedding."""
        values = tokens.numpy()  # a few numbers, in a fraction of torch's time
        if len(values) and not 0 <= values.min() <= values.max() < self._vocab_size:
            raise IndexError(f"a token is beyond the embedding's {self._vocab_size} rows")

    def add_adapter(self, adapter: int, parts: Sequence[Part]) -> None:
        """Lay an adapter over the model; raises as `Decoder.add_adapter`."""
        self._decoder.add_adapter(adapter, parts)
        for block in self._decoder.blocks:
            for linear in block.linears:
                laid = linear.deltas.pop(adapter, ())
                if laid:
                    deltas = [core_delta(delta, packed(linear.weight)) for delta in laid]
                    self._deltas.setdefault(linear, {})[adapter] = deltas
        self._describe_layers()

    def remove_adapter(self, adapter: int) -> None:
        self._decoder.remove_adapter(adapter)
        for deltas in self._deltas.values():
            deltas.pop(adapter, None)
        self._describe_layers()

    def _describe_layers(self) -> None:
        self._described.clear()
        for index, block in enumerate(self._decoder.blocks):
            assert isinstance(block, Block), "the core computes on the CPU alone"
            self._layers[index] = self._c_layer(block, index)
        self._describe_norms()

    def _describe_norms(self) -> None:
        described = [
            CNorm(adapter, norm.weight.data_ptr(), weight.data_ptr())
            for _, norm in self._decoder.modules()
            if isinstance(norm, RMSNorm)
            for adapter, weight in norm.replaced.items()
        ]
        self._model.norms = (CNorm * len(described))(*described)
        self._model.num_norms = len(described)

    def _c_layer(self, block: Block, index: int) -> CLayer:
        layer = self.config.layers[index]
        rope = _LOCAL_ROPE if layer.uses_local_rope else _ROPE
        attention, mlp = block.attention, block.mlp
        mixture = self._c_experts(mlp) if isinstance(mlp, Experts) else None
        gated = (mlp.gate_up, mlp.down) if isinstance(mlp, MLP) else ()
        pre, post = block.pre or (None, None), block.post or (None, None)
        return CLayer(
            self._c_linear(attention.qkv),
            self._c_linear(attention.out),
            *(map(self._c_linear, gated) if gated else (CLinear(), CLinear())),
            *(_weight(norm) for norm in (pre[0], post[0], pre[1], post[1])),
            _weight(attention.q_norm),
            _weight(attention.k_norm),
            layer.sliding_window,
            rope if layer.uses_rope else _NO_ROPE,
            mixture and pointer(mixture),
        )

    def _c_experts(self, mixture: Experts) -> CExperts:
        settings, shared = mixture.settings, mixture.shared
        array = CLinear * settings.count
        described = CExperts(
            settings.count, settings.num_used, settings.normalizes, settings.size,
            settings.shared_size, self._c_linear(mixture.router),
            array(*(self._c_linear(mlp.gate_up) for mlp in mixture.experts)),
            array(*(self._c_linear(mlp.down) for mlp in mixture.experts)),
        )  # fmt: skip
        if shared is not None:
            described.shared_gate_up = self._c_linear(shared.gate_up)
            described.shared_down = self._c_linear(shared.down)
            described.shared_gate = self._c_linear(mixture.shared_gate)
        self._described.append(described)
        return described

    def _c_linear(self, linear: Linear) -> CLinear:
        described = _c_linear(linear)
        deltas = [
            delta.described(adapter)
            for adapter, found in self._deltas.get(linear, {}).items()
            for delta in found
        ]
        if deltas:
            described.num_deltas, described.deltas = len(deltas), (CDelta * len(deltas))(*deltas)
            self._described.append(described.deltas)
        return described

    def _pointers(self, cache: KVCache) -> tuple[object, object]:
        """To each layer's keys and values, which stay where they are."""
        if self._cache is not cache:
            shape = (self._layer_bytes(cache.num_slots),)
            layers = [cache.layer(i, shape, torch.uint8) for i in range(len(self.config.layers))]
            pointers = c_void_p * len(layers)
            keys = pointers(*(keys.data_ptr() for keys, _ in layers))
            values = pointers(*(values.data_ptr() for _, values in layers))
            self._cache, self._cache_pointers = cache, (keys, values)
        return self._cache_pointers


def _c_model(decoder: Decoder, layers: object) -> CModel:
    config = decoder.config
    return CModel(
        config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads,
        config.head_dim, len(config.layers), config.qk_norm is QkNorm.FULL,
        config.activation == "gelu_tanh", config.norm_eps,
        config.attention_scale or config.head_dim**-0.5, config.attention_softcap,
        config.logit_softcap, config.embedding_scale, config.residual_scale, config.logit_scale,
        packed(decoder.embedding).c_linear(), _c_linear(decoder.head), _weight(decoder.norm),
        layers,
    )  # fmt: skip


def _c_linear(linear: Linear) -> CLinear:
    described = packed(linear.weight).c_linear()
    described.bias = None if linear.bias is None else linear.bias.data_ptr()
    return described


def _weight(norm: RMSNorm | None) -> int | None:
    return None if norm is None else norm.weight.data_ptr()


def _adapters(num_tokens: int, adapters: Sequence[AdapterRows]) -> Tensor:
    """Each token's adapter, 0 for none."""
    numbers = torch.zeros(num_tokens, dtype=torch.int32)
    for adapter, rows in adapters:
        numbers[rows] = adapter
    return numbers


def _spans(spans: Sequence[Span]) -> tuple[Array[CSpan], list[Tensor]]:
    """The spans in C, and the slots that they point to."""
    where = [
        torch.arange(span.slots.start, span.slots.stop, dtype=torch.int32)
        if isinstance(span.slots, slice)
        else span.slots.int()
        for span in spans
    ]
    described = (CSpan * len(spans))(
        *(
            CSpan(span.start, span.end, len(slots), slots.data_ptr())
            for span, slots in zip(spans, where, strict=True)
        )
    )
    return described, where
