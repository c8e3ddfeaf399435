"""A step of the compiled core computes what the lean decoder computes, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from olla.engine.kv_cache import KVCache
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.models.decoder import Decoder
from olla.engine.models.families import decoder_config
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import Core
from olla.engine.native.packed import Packing
from olla.engine.weights.checkpoint import CheckpointParameters
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from tests.engine.test_families import FAMILIES, forward
from tests.tiny_model import VOCAB_SIZE, save_tiny_model

TOLERANCE = 4e-3  # keys and values are kept in half precision
CPU = torch.device("cpu")


def load_pair(
    folder: Path, core: Core, family: str = "llama", **settings: Any
) -> tuple[CausalModel, CausalModel]:
    """One model computed by the core, and by torch."""
    files = save_tiny_model(folder, family, **settings)
    checkpoint = SafetensorsCheckpoint({name: Path(path) for name, path in files.items()})

    def load(packing: Packing | None) -> Decoder:
        parameters = CheckpointParameters(
            checkpoint, torch.float32, CPU, lambda num_bytes: None, matrices=packing
        )
        return Decoder(decoder_config(checkpoint.config), parameters)

    return NativeDecoder(load(Packing(core)), core), load(None)


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_logits_are_those_of_the_torch_decoder(
    tmp_path: Path, core: Core, family: str, settings: dict[str, Any]
) -> None:
    native, decoder = load_pair(tmp_path, core, family, **settings)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (150,))  # more than one chunk of keys
    cache = KVCache(150)

    pieces = [forward(native, tokens[a:b], cache, a) for a, b in [(0, 99), (99, 100), (100, 150)]]

    expected = forward(decoder, tokens)
    assert (torch.cat(pieces) - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_sequence_does_not_see_the_others_of_its_batch(tmp_path: Path, core: Core) -> None:
    native, _ = load_pair(tmp_path, core)
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


def test_adapters_of_a_mixed_batch_touch_their_own_rows(tmp_path: Path, core: Core) -> None:
    native, decoder = load_pair(tmp_path, core)
    tokens = torch.randint(0, 256, (6,))
    plain = forward(native, tokens)
    for model in (native, decoder):
        torch.manual_seed(1)
        for module in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            linear, start, end = decoder.blocks[0].projection(module)  # type: ignore[attr-defined]
            a, b = torch.randn(4, linear.weight.shape[1]), torch.randn(end - start, 4)
            model.add_adapter(7, f"model.layers.0.{module}", a, b)

    changed = forward(native, tokens, adapter=7)

    expected = forward(decoder, tokens, adapter=7)
    assert (changed - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(forward(native, tokens), plain)
    native.remove_adapter(7)
    assert torch.equal(forward(native, tokens, adapter=7), plain)
