"""A step of the compiled core computes what the lean decoder computes, for every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from olla.engine.kv_cache import KVCache
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.models.decoder import Decoder
from olla.engine.models.families import decoder_config
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import Core, Kind
from olla.engine.native.packed import Packing
from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.engine.weights.checkpoint import CheckpointParameters
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from tests.engine.test_families import FAMILIES, forward
from tests.tiny_model import VOCAB_SIZE, save_tiny_model

TOLERANCE = 4e-3  # keys and values are kept in half precision
TOLERANCES = {Kind.F16: TOLERANCE, Kind.Q8: 4e-2}
IN_BYTES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"head_dim": 80, "num_key_value_heads": 1, "num_attention_heads": 8}),
    ("gemma2", {"sliding_window": 16, "query_pre_attn_scalar": 12}),
    ("qwen3", {}),
]
"""Families whose keys and values are tested in 8 bits too: odd heads, windows and caps, norms.

No mixture: random routers choose other experts for very little.
"""
CPU = torch.device("cpu")
LAYER = "model.layers.0"


def load_pair(
    folder: Path,
    core: Core,
    family: str = "llama",
    cache_kind: Kind = Kind.F16,
    **settings: Any,
) -> tuple[CausalModel, CausalModel]:
    """One model computed by the core, and by torch."""
    files = save_tiny_model(folder, family, **settings)
    checkpoint = SafetensorsCheckpoint({name: Path(path) for name, path in files.items()})

    def load(packing: Packing | None) -> Decoder:
        parameters = CheckpointParameters(
            checkpoint, torch.float32, CPU, lambda num_bytes: None, matrices=packing
        )
        return Decoder(decoder_config(checkpoint.config), parameters)

    return NativeDecoder(load(Packing(core)), core, cache_kind), load(None)


@pytest.mark.parametrize(
    ("family", "settings", "kind"),
    [*((*each, Kind.F16) for each in FAMILIES), *((*each, Kind.Q8) for each in IN_BYTES)],
)
def test_logits_are_those_of_the_torch_decoder(
    tmp_path: Path, core: Core, family: str, settings: dict[str, Any], kind: Kind
) -> None:
    native, decoder = load_pair(tmp_path, core, family, kind, **settings)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (150,))  # more than one chunk of keys
    cache = KVCache(150)

    pieces = [forward(native, tokens[a:b], cache, a) for a, b in [(0, 99), (99, 100), (100, 150)]]

    expected = forward(decoder, tokens)
    assert (torch.cat(pieces) - expected).abs().max() <= TOLERANCES[kind] * expected.abs().max()


def test_a_token_beyond_the_embedding_is_refused(tmp_path: Path, core: Core) -> None:
    native, _ = load_pair(tmp_path, core)

    with pytest.raises(IndexError, match="beyond the embedding"):
        forward(native, torch.tensor([1, VOCAB_SIZE]))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8])
@pytest.mark.parametrize(("family", "settings"), [("llama", {}), FAMILIES[-2]])
def test_a_sequence_does_not_see_the_others_of_its_batch(
    tmp_path: Path, core: Core, family: str, settings: dict[str, Any], kind: Kind
) -> None:
    native, _ = load_pair(tmp_path, core, family, kind, **settings)
    first, second = torch.randint(0, 256, (9,)), torch.randint(0, 256, (5,))
    scattered = [30, 12, 25, 11, 17]

    together = native.forward(
        Batch(
            tokens=torch.cat((first, second)),
            positions=torch.cat((torch.arange(9), torch.arange(5))),
            slots=torch.tensor([*range(9), *scattered]),
            spans=[Span(0, 9, slice(0, 9)), Span(9, 14, torch.tensor(scattered))],
            logit_rows=torch.tensor([8, 13]),
            cache=KVCache(32),
        )
    )

    alone = [forward(native, tokens)[-1] for tokens in (first, second)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("num_tokens", [2, 3, 8, 17, 40, 70])
@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", Kind.F16), ("gemma2", Kind.F16), ("gemma2", Kind.Q8)],
)
def test_a_wide_step_gives_the_logits_of_single_ones_to_the_bit(
    tmp_path: Path, core: Core, family: str, num_tokens: int, kind: Kind
) -> None:
    """What is promised of a seed, whoever else is there and whatever was drafted, rests on it."""
    native, _ = load_pair(tmp_path, core, family, kind)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (130 + num_tokens,))
    cache = KVCache(len(tokens))
    forward(native, tokens[:130], cache)

    ones = [forward(native, tokens[at : at + 1], cache, at) for at in range(130, len(tokens))]
    wide = forward(native, tokens[130:], cache, 130)

    assert torch.equal(wide, torch.cat(ones))


def test_adapters_of_a_mixed_batch_touch_their_own_rows(tmp_path: Path, core: Core) -> None:
    native, decoder = load_pair(tmp_path, core)
    tokens = torch.randint(0, 256, (6,))
    plain = forward(native, tokens)
    modules = dict(decoder.modules())  # type: ignore[attr-defined]
    parts: list[Part] = []
    for name in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        linear, start, end = modules[f"model.layers.0.{name}"]
        a, b = torch.randn(4, linear.weight.shape[1]), torch.randn(end - start, 4)
        parts.append(LowRank(f"model.layers.0.{name}", a, b))
    for model in (native, decoder):
        model.add_adapter(7, parts)

    changed = forward(native, tokens, adapter=7)

    expected = forward(decoder, tokens, adapter=7)
    assert (changed - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(forward(native, tokens), plain)
    native.remove_adapter(7)
    assert torch.equal(forward(native, tokens, adapter=7), plain)


def low_rank(module: str, rows: int, columns: int, magnitude: Tensor | None = None) -> LowRank:
    return LowRank(module, torch.randn(4, columns) / 4, torch.randn(rows, 4) / 4, magnitude)


def in_16_bits(dtype: torch.dtype) -> LowRank:
    """Numbers as a file of that type has them; the outputs are more than one task's."""
    part = low_rank(f"{LAYER}.mlp.gate_proj", 48, 32)
    return replace(part, a=part.a.to(dtype).float(), b=part.b.to(dtype).float())


EVERY_KIND: list[tuple[str, Callable[[], list[Part]]]] = [
    ("dora", lambda: [low_rank(f"{LAYER}.self_attn.q_proj", 32, 32, magnitude=torch.rand(32))]),
    ("bias", lambda: [Replaced(f"{LAYER}.self_attn.k_proj", "bias", torch.randn(16))]),
    ("float16", lambda: [in_16_bits(torch.float16)]),
    ("bfloat16", lambda: [in_16_bits(torch.bfloat16)]),
    ("whole", lambda: [Replaced(f"{LAYER}.mlp.down_proj", "weight", torch.randn(32, 48), 0.5)]),
    ("norms", lambda: [Replaced("model.norm", "weight", torch.randn(32)),
                       Replaced(f"{LAYER}.input_layernorm", "weight", torch.randn(32))]),
    ("ends", lambda: [low_rank("model.embed_tokens", 32, VOCAB_SIZE),
                      low_rank("lm_head", VOCAB_SIZE, 32)]),
    ("tokens", lambda: [TokenRows("model.embed_tokens", torch.tensor([1, 3]), torch.randn(2, 32))]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "make_parts"), EVERY_KIND)
@pytest.mark.parametrize("ties", [True, False])
def test_every_kind_of_adapter_is_computed_as_torch_computes_it(
    tmp_path: Path, core: Core, kind: str, make_parts: Callable[[], list[Part]], ties: bool
) -> None:
    native, decoder = load_pair(tmp_path, core, "qwen2", tie_word_embeddings=ties)
    tokens = torch.tensor([1, 2, 3, 1, 5, 3])
    plain = forward(native, tokens)
    parts = make_parts()
    for model in (native, decoder):
        model.add_adapter(3, parts)

    changed, expected = (forward(model, tokens, adapter=3) for model in (native, decoder))

    assert (changed - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (changed - plain).abs().max() > 0.01 * plain.abs().max()
    assert torch.equal(forward(native, tokens), plain)
