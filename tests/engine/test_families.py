"""Each family of the lean decoder computes what its transformers class computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence

from olla.engine.engine import Engine
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows
from olla.engine.loading import load_model
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.models.families import decoder_config
from olla.errors import FormatError
from olla.runner.protocol import Finished
from tests.engine.driving import add, ask, drain
from tests.tiny_model import SMALL, VOCAB_SIZE, save_tiny_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": LLAMA3_ROPE}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}}),
    ("mistral", {"sliding_window": 16}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    ("qwen3", {}),
    ("smollm3", {"no_rope_layers": [1, 0]}),
    ("phi3", {"original_max_position_embeddings": 512}),
    ("granite", {"attention_multiplier": 0.2, "embedding_multiplier": 3.0,
                 "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    ("olmo2", {}),
    ("gemma2", {"sliding_window": 16, "query_pre_attn_scalar": 12}),
    ("gemma3_text", {"sliding_window": 16, "num_hidden_layers": 6, "query_pre_attn_scalar": 12}),
    ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 16}),
    ("olmoe", {**EXPERTS, "norm_topk_prob": True}),
    ("granitemoe", {"num_local_experts": 5, "attention_multiplier": 0.2, "logits_scaling": 2.0}),
    ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 40, "use_sliding_window": True,
                   "sliding_window": 16, "num_hidden_layers": 3, "mlp_only_layers": [1]}),
    ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 2}),
]  # fmt: skip


def load_pair(folder: Path, family: str, settings: dict[str, Any]) -> tuple[CausalModel, Any]:
    files = save_tiny_model(folder, family, **settings)
    loaded = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    return loaded.network, reference_of(folder)


def reference_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def forward(
    model: CausalModel,
    tokens: torch.Tensor,
    cache: KVCache | None = None,
    start: int = 0,
    adapter: int = 0,
) -> torch.Tensor:
    """Logits of all `tokens` of one sequence, whose first `start` are in the cache."""
    end = start + len(tokens)
    return model.forward(
        Batch(
            tokens=tokens,
            positions=torch.arange(start, end),
            slots=torch.arange(start, end),
            spans=[Span(0, len(tokens), slice(0, end))],
            logit_rows=torch.arange(len(tokens)),
            cache=cache or KVCache(end),
            adapters=[AdapterRows(adapter, torch.arange(len(tokens)))] if adapter else [],
        )
    )


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_logits_are_those_of_transformers(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    decoder, reference = load_pair(tmp_path, family, settings)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (40,))

    logits = forward(decoder, tokens)

    with torch.inference_mode():
        expected = reference(tokens[None]).logits[0]
    assert (logits - expected).abs().max() <= 1e-3


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_greedy_replies_are_those_of_transformers(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    """128 tokens of 20 prompts, fewer where one ends or goes round in a circle; all in one batch.

    One pass of the reference over the replies shows it: see test_fidelity.py.
    """
    files = save_tiny_model(tmp_path, family, **settings)
    engine = Engine(load_model(files, "float32", "cpu", 0, lambda done, total: None))
    for number in range(20):
        add(engine, ask(number, "abcdefghij" * 4 + "?" * number, num_predict=128))

    ends = [messages[-1] for messages in drain(engine).values()]

    replies = [(end.context, end.num_prompt_tokens) for end in ends if isinstance(end, Finished)]
    padded = pad_sequence([torch.tensor(tokens) for tokens, _ in replies], batch_first=True)
    with torch.inference_mode():
        likeliest = reference_of(tmp_path)(padded).logits.argmax(-1).tolist()
    assert len(replies) == 20
    assert sum(len(tokens) - start for tokens, start in replies) > 500
    for (tokens, start), expected in zip(replies, likeliest, strict=True):
        assert tokens[start:] == expected[start - 1 : len(tokens) - 1]


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_a_prompt_in_pieces_gives_the_logits_of_the_whole(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    files = save_tiny_model(tmp_path, family, **settings)
    decoder = load_model(files, "float32", "cpu", 0, lambda done, total: None).network
    tokens = torch.randint(0, VOCAB_SIZE - 3, (40,))
    cache = KVCache(40)
    cuts = [(0, 23), (23, 24), (24, 39), (39, 40)]

    pieces = [forward(decoder, tokens[start:end], cache, start) for start, end in cuts]

    whole = forward(decoder, tokens)
    assert (torch.cat(pieces) - whole).abs().max() <= 1e-3


def test_a_sequence_does_not_see_the_others_of_its_batch(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    decoder = load_model(files, "float32", "cpu", 0, lambda done, total: None).network
    first, second = torch.randint(0, 256, (9,)), torch.randint(0, 256, (5,))

    together = decoder.forward(
        Batch(
            tokens=torch.cat((first, second)),
            positions=torch.cat((torch.arange(9), torch.arange(5))),
            # The second one's places are scattered, as blocks that were freed here and there are.
            slots=torch.tensor([*range(9), 30, 12, 25, 11, 17]),
            spans=[Span(0, 9, slice(0, 9)), Span(9, 14, torch.tensor([30, 12, 25, 11, 17]))],
            logit_rows=torch.tensor([8, 13]),
            cache=KVCache(32),
        )
    )

    alone = [forward(decoder, tokens)[-1] for tokens in (first, second)]
    assert (together - torch.stack(alone)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["mixtral", "granitemoe", "qwen3_moe"])
def test_experts_that_a_file_holds_in_one_tensor_are_read_as_those_apart(
    tmp_path: Path, family: str
) -> None:
    """transformers 5 has them so in memory, and takes them apart when it saves them."""
    files = save_tiny_model(tmp_path, family, **EXPERTS, num_local_experts=5)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (9,))
    expected = forward(load_model(files, "float32", "cpu", 0, print).network, tokens)

    save_file(model.state_dict(), files["model.safetensors"])

    found = forward(load_model(files, "float32", "cpu", 0, print).network, tokens)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, 'unsupported architecture "bert"'),
        ({"model_type": None}, 'unsupported architecture "None"'),
        ({"hidden_size": "32"}, "hidden_size must be a positive whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive whole number"),
        ({"num_key_value_heads": 3}, "cannot share 3 key-value heads"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a number"),
        ({"rope_scaling": "linear"}, "config.json makes no sense"),
        ({"rope_scaling": {"rope_type": ["x"]}}, "config.json makes no sense"),
        ({"hidden_act": "gelu"}, 'unsupported hidden_act "gelu"'),
        ({"model_type": "mistral", "sliding_window": "x"}, "sliding_window must be"),
        ({"model_type": "granite", "logits_scaling": 0}, "config.json makes no sense"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "lists of layers"),
        ({"model_type": "smollm3", "use_sliding_window": True}, "without a sliding window"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "lists of layers"),
        ({"model_type": "gemma2", "layer_types": ["linear_attention"] * 2}, "linear_attention"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "olmoe", **EXPERTS, "num_experts_per_tok": 6}, "to 6 of 5 experts"),
        ({"model_type": "olmoe", **EXPERTS, "clip_qkv": 8.0}, "without clip_qkv"),
        (
            {"model_type": "qwen3_moe", "moe_intermediate_size": 8},
            "num_local_experts must be a positive whole number",
        ),
        ({"partial_rotary_factor": 4e6}, "partial_rotary_factor cannot be 4e"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor cannot be 0"),
        ({"rope_scaling": {"rope_type": "yarn"}}, 'unsupported rotary scaling "yarn"'),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(change: dict[str, Any], words: str) -> None:
    config = {"model_type": "llama", **SMALL, **change}

    with pytest.raises(FormatError, match=words):
        decoder_config(config)
