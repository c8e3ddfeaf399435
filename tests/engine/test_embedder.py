"""Vectors and scores of random models, against transformers and against themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from torch import Tensor

from olla.engine.embedder import Embedder
from olla.engine.encoder import load_encoder
from olla.engine.encoder_files import is_encoder
from olla.engine.inputs import InputReader, Reading
from olla.engine.loading import load_model
from olla.engine.pooled_decoder import TOKENS_PER_BATCH, PooledDecoder, decoder_head
from olla.errors import BadInput, FormatError, PromptTooLong
from olla.runner.protocol import Embed, Embeddings, Failed, FromRunner, Rerank, Scores
from tests.encoders import WINDOW, add_modules, save_encoder
from tests.tiny_model import save_tiny_model

TEXTS = ("a", "abc", "xyz", "a longer one", "b", "quite a lot longer than all the others", "c d")


def encoder(files: dict[str, str]) -> Embedder:
    loaded = load_encoder(files, "float32", "cpu", 1)
    reader = InputReader(loaded.tokenizer, loaded.model.vocab_size, loaded.context_length)
    return Embedder(loaded.model, reader)


def decoder(files: dict[str, str]) -> Embedder:
    model = load_model(files, "float32", "cpu", 1, lambda done, total: None)
    config = model.network.config
    reader = InputReader(model.tokenizer, config.vocab_size, config.context_length)
    head = decoder_head(files, model.device)
    return Embedder(PooledDecoder(model.network, head, model.device), reader)


def run(embedder: Embedder) -> list[FromRunner]:
    messages: list[FromRunner] = []
    while embedder.has_work:
        messages += embedder.step()
    return messages


def vectors(embedder: Embedder, inputs: Sequence[Any], **settings: Any) -> np.ndarray:
    request = Embed(1, list(inputs), **{"num_ctx": 512, **settings})
    embedder.add(embedder.prepare(request))
    found: dict[int, np.ndarray] = {}
    for reply in run(embedder):
        assert isinstance(reply, Embeddings), reply
        rows = np.frombuffer(reply.vectors, "<f4").reshape(len(reply.places), -1)
        found.update(zip(reply.places, rows, strict=True))
    return np.stack([found[place] for place in range(len(inputs))])


def counts(embedder: Embedder, inputs: Sequence[Any], **settings: Any) -> list[int]:
    embedder.add(embedder.prepare(Embed(1, list(inputs), **{"num_ctx": 512, **settings})))
    replies = [reply for reply in run(embedder) if isinstance(reply, Embeddings)]
    pairs = [pair for r in replies for pair in zip(r.places, r.num_tokens, strict=True)]
    return [count for _, count in sorted(pairs)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert_embedder(bert: dict[str, str]) -> Embedder:
    return encoder(bert)


@pytest.fixture(scope="module")
def llama_embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return decoder(save_tiny_model(tmp_path_factory.mktemp("llama"), initializer_range=0.1))


ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "modernbert": {"intermediate_size": 48, "cls_token_id": 2, "sep_token_id": 3},
    "nomic_bert": {},
}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_an_encoders_vectors_are_transformers_own(model_type: str, tmp_path: Path) -> None:
    files = save_encoder(tmp_path, model_type, **ENCODERS[model_type])
    assert is_encoder(files)
    tokens = [2, 5, 6, 7, 3]

    (ours,) = vectors(encoder(files), [tokens], normalize=False)

    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([tokens])).last_hidden_state
    np.testing.assert_allclose(ours, states[0].mean(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder", "lean", "hf"])
def test_a_vector_does_not_depend_on_its_batch(
    kind: str, bert_embedder: Embedder, llama_embedder: Embedder, tmp_path: Path
) -> None:
    embedders: dict[str, Callable[[], Embedder]] = {
        "encoder": lambda: bert_embedder,
        "lean": lambda: llama_embedder,
        "hf": lambda: decoder(save_tiny_model(tmp_path, "stablelm")),
    }
    embedder = embedders[kind]()
    alone = [vectors(embedder, [text])[0] for text in TEXTS]

    for order in itertools.islice(itertools.permutations(range(len(TEXTS))), 0, None, 600):
        together = vectors(embedder, [TEXTS[place] for place in order])
        np.testing.assert_allclose(together, np.stack([alone[p] for p in order]), atol=1e-5)
    twins = vectors(embedder, [TEXTS[1]] * 40)
    np.testing.assert_allclose(twins, np.stack([alone[1]] * 40), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_cls_token": True}, lambda states: states[0]),
        ({"pooling_mode_max_tokens": True}, lambda states: states.amax(0)),
        ({"pooling_mode": "lasttoken"}, lambda states: states[-1]),
        ({"pooling_mode_mean_tokens": True}, lambda states: states.mean(0)),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            lambda states: torch.cat([states[0], states.mean(0)]),
        ),
    ],
)
def test_pooling_is_as_the_repository_says(
    pooling: dict[str, Any], pool: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    save_encoder(tmp_path)
    files = add_modules(tmp_path, **pooling)

    (ours,) = vectors(encoder(files), ["hello"], normalize=False)

    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)("hello", return_tensors="pt")
    with torch.inference_mode():
        states = model(input_ids=tokens.input_ids).last_hidden_state[0]
    np.testing.assert_allclose(ours, pool(states).numpy(), atol=1e-5)


@pytest.mark.parametrize("model_type", ["qwen3", "stablelm"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_a_decoders_vectors_are_its_last_hidden_states(
    model_type: str, pooling: str, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, model_type)
    files = add_modules(tmp_path, pooling_mode=pooling)
    texts = ["hello", "x" * 300]

    ours = vectors(decoder(files), texts)

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for text, vector in zip(texts, ours, strict=True):
        with torch.inference_mode():
            tokens = torch.tensor([decoder_tokens(files, text)])
            states = model(tokens, output_hidden_states=True).hidden_states[-1][0]
        wanted = states[-1] if pooling == "lasttoken" else states.mean(0)
        np.testing.assert_allclose(vector, (wanted / wanted.norm()).numpy(), atol=1e-5)


def decoder_tokens(files: dict[str, str], text: str) -> list[int]:

    return list(Tokenizer.from_file(files["tokenizer.json"]).encode(text).ids)


def test_a_decoder_that_does_not_say_pools_its_last_token(
    llama_embedder: Embedder, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, initializer_range=0.1)
    said = decoder(add_modules(tmp_path, pooling_mode="lasttoken"))

    np.testing.assert_allclose(vectors(said, TEXTS), vectors(llama_embedder, TEXTS), atol=1e-6)


def test_a_long_text_is_read_in_parts_with_pauses(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, max_position_embeddings=2048)
    embedder = decoder(files)
    text = "".join(chr(97 + number * number % 23) for number in range(1200))
    embedder.add(embedder.prepare(Embed(1, [text], num_ctx=2048)))

    steps = [embedder.step() for _ in range(4)]

    assert [len(messages) for messages in steps] == [0, 0, 1, 0]
    assert 2 * TOKENS_PER_BATCH < 1200 <= 3 * TOKENS_PER_BATCH
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        tokens = torch.tensor([decoder_tokens(files, text)])
        wanted = model(tokens).last_hidden_state[0, -1]
    (message,) = steps[2]
    assert isinstance(message, Embeddings)
    vector = np.frombuffer(message.vectors, "<f4")
    np.testing.assert_allclose(vector, (wanted / wanted.norm()).numpy(), atol=1e-5)


def test_vectors_are_of_unit_length_unless_an_encoders_are_wanted_raw(
    bert_embedder: Embedder, llama_embedder: Embedder
) -> None:
    raw = vectors(bert_embedder, TEXTS, normalize=False)
    units = vectors(bert_embedder, TEXTS)

    norms = np.linalg.norm(raw, axis=1)
    assert (abs(norms - 1) > 0.01).all()
    np.testing.assert_allclose(units, raw / norms[:, None], atol=1e-6)
    decoders = vectors(llama_embedder, TEXTS, normalize=False)
    np.testing.assert_allclose(np.linalg.norm(decoders, axis=1), 1.0, atol=1e-6)


def test_dimensions_keep_the_first_numbers_and_make_them_unit_again(
    bert_embedder: Embedder,
) -> None:
    whole = vectors(bert_embedder, TEXTS)

    short = vectors(bert_embedder, TEXTS, dimensions=8)

    assert short.shape == (len(TEXTS), 8)
    prefix = whole[:, :8]
    np.testing.assert_allclose(
        short, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-6
    )
    for ignored in (32, 99, -1):
        np.testing.assert_allclose(vectors(bert_embedder, TEXTS, dimensions=ignored), whole)


def test_what_is_too_long_is_cut_with_its_special_tokens_kept(bert_embedder: Embedder) -> None:
    assert counts(bert_embedder, ["abc", "a" * 50], num_ctx=10) == [5, 10]
    np.testing.assert_array_equal(
        vectors(bert_embedder, ["a" * 50], num_ctx=10), vectors(bert_embedder, ["a" * 8])
    )
    assert counts(bert_embedder, ["a " * 99], num_ctx=512) == [WINDOW]


def test_special_tokens_that_are_there_already_are_not_added_again(
    bert_embedder: Embedder,
) -> None:
    inputs = ["ab", "[CLS] ab [SEP]", [2, 5, 32, 3], [5, 32]]

    assert counts(bert_embedder, inputs) == [4, 4, 4, 4]
    rows = vectors(bert_embedder, inputs)
    np.testing.assert_allclose(rows, np.stack([rows[0]] * 4), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"inputs": ["a", "a" * 50], "num_ctx": 10, "truncate": False},
            PromptTooLong,
            "the input length exceeds the context length",
        ),
        (
            {"inputs": ["a"], "num_ctx": 2},
            BadInput,
            "input after truncation exceeds maximum context length",
        ),
        ({"inputs": [[1, 99]]}, BadInput, "token 99 is not in the vocabulary of 57"),
        ({"inputs": [[-1]]}, BadInput, "token -1 is not in the vocabulary of 57"),
    ],
)
def test_an_input_that_cannot_be_used_says_why(
    bert_embedder: Embedder, settings: dict[str, Any], error: type[BadInput], text: str
) -> None:
    with pytest.raises(error, match=text):
        bert_embedder.prepare(Embed(1, **{"num_ctx": 64, **settings}))


def test_an_input_without_tokens_is_refused_where_nothing_is_added(
    llama_embedder: Embedder, bert_embedder: Embedder
) -> None:
    assert counts(bert_embedder, [""]) == [2]
    with pytest.raises(BadInput, match="the input is empty"):
        llama_embedder.prepare(Embed(1, [""], num_ctx=64))


def test_no_inputs_are_answered_by_no_vectors(bert_embedder: Embedder) -> None:
    bert_embedder.add(bert_embedder.prepare(Embed(1, [], num_ctx=64)))

    assert run(bert_embedder) == [Embeddings(1, [], b"", [], is_last=True)]


class Scripted:
    """A model whose vectors are told by the first token; each text is a batch of its own."""

    scores_pairs = False
    has_unit_vectors = False

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        return [[place] for place in range(len(lengths))]

    def embed(self, readings: Sequence[Reading]) -> Iterator[Tensor | None]:
        number = readings[0].tokens[0]
        yield torch.tensor([[float("nan") if number == 0 else number, 1.0]])


@pytest.fixture
def scripted(bert: dict[str, str]) -> Embedder:
    loaded = load_encoder(bert, "float32", "cpu", 1)

    plain = Tokenizer.from_str(loaded.tokenizer.to_str())

    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return Embedder(Scripted(), InputReader(plain, 100, 64))


def test_requests_take_turns_and_a_cancelled_one_is_forgotten(scripted: Embedder) -> None:
    for number in (1, 2, 3):
        scripted.add(scripted.prepare(Embed(number, [[5], [6]], num_ctx=64)))
    first = [message for _ in range(3) for message in scripted.step()]
    scripted.cancel(2)
    rest = run(scripted)

    assert [reply.id for reply in first if isinstance(reply, Embeddings)] == [1, 2, 3]
    assert [reply.id for reply in rest if isinstance(reply, Embeddings)] == [1, 3]


def test_a_vector_that_is_no_number_fails_its_request_alone(scripted: Embedder) -> None:
    scripted.add(scripted.prepare(Embed(1, [[5], [0]], num_ctx=64)))
    scripted.add(scripted.prepare(Embed(2, [[5]], num_ctx=64)))

    replies = run(scripted)

    (failed,) = [reply for reply in replies if isinstance(reply, Failed)]
    assert (failed.id, failed.text) == (1, "embedding contains NaN or Inf values")
    assert [reply.id for reply in replies if isinstance(reply, Embeddings)] == [1, 2]


def test_without_a_cross_encoder_a_score_is_a_cosine(bert_embedder: Embedder) -> None:
    bert_embedder.add(bert_embedder.prepare(Rerank(1, TEXTS[0], list(TEXTS[1:]), num_ctx=64)))

    (scores,) = run(bert_embedder)

    rows = vectors(bert_embedder, TEXTS)
    assert isinstance(scores, Scores)
    np.testing.assert_allclose(scores.scores, rows[1:] @ rows[0], atol=1e-6)
    assert scores.num_tokens == sum(counts(bert_embedder, TEXTS))


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
def test_a_cross_encoders_scores_are_transformers_own(model_type: str, tmp_path: Path) -> None:
    auto = transformers.AutoModelForSequenceClassification
    has_types = model_type == "bert"
    files = save_encoder(tmp_path, model_type, auto, num_labels=1, type_vocab_size=1 + has_types)
    documents = [*TEXTS, "z" * 200]
    embedder = encoder(files)

    embedder.add(embedder.prepare(Rerank(1, "a query", documents, num_ctx=32)))
    (scores,) = run(embedder)

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=files["tokenizer.json"])
    model = auto.from_pretrained(tmp_path).eval()
    for document, score in zip(documents, scores.scores, strict=True):  # type: ignore[union-attr]
        pair = tokenizer(
            "a query",
            document,
            truncation=True,
            max_length=32,
            return_tensors="pt",
            return_token_type_ids=has_types,
        )
        with torch.inference_mode():
            logit = model(**pair).logits[0, 0]
        assert score == pytest.approx(float(torch.sigmoid(logit)), abs=1e-5)


def test_a_cross_encoder_has_no_vectors(tmp_path: Path) -> None:
    auto = transformers.AutoModelForSequenceClassification
    embedder = encoder(save_encoder(tmp_path, auto=auto, num_labels=1))

    with pytest.raises(BadInput, match="use /api/rerank"):
        embedder.prepare(Embed(1, ["a"], num_ctx=64))
    with pytest.raises(BadInput, match="input after truncation"):
        embedder.prepare(Rerank(1, "a", ["b"], num_ctx=3))


def test_a_classifier_with_several_classes_is_refused(tmp_path: Path) -> None:
    auto = transformers.AutoModelForSequenceClassification
    files = save_encoder(tmp_path, auto=auto, num_labels=3)

    with pytest.raises(FormatError, match="sorts texts into 3 classes"):
        load_encoder(files, "float32", "cpu", 1)


@pytest.mark.parametrize(
    ("pooling", "text"),
    [({"pooling_mode": "attention"}, "pooling 'attention'"), ({"pooling_mode": [3]}, "pooling")],
)
def test_a_pooling_that_nobody_knows_is_refused(
    pooling: dict[str, Any], text: str, tmp_path: Path
) -> None:
    save_encoder(tmp_path)

    with pytest.raises(FormatError, match=text):
        load_encoder(add_modules(tmp_path, **pooling), "float32", "cpu", 1)


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    files = save_encoder(tmp_path)

    tensors = load_file(files["model.safetensors"])
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, files["model.safetensors"], {"format": "pt"})

    with pytest.raises(FormatError, match=r"the weights lack encoder\.layer\.1\.output\.dense"):
        load_encoder(files, "float32", "cpu", 1)


def test_the_window_is_the_smallest_that_a_file_names(tmp_path: Path) -> None:
    files = save_encoder(tmp_path)
    path = tmp_path / "sentence_bert_config.json"
    path.write_text('{"max_seq_length": 16}')

    assert load_encoder(files, "float32", "cpu", 1).context_length == WINDOW
    files[path.name] = str(path)
    assert load_encoder(files, "float32", "cpu", 1).context_length == 16


def test_robertas_positions_begin_behind_the_paddings(tmp_path: Path) -> None:
    files = save_encoder(tmp_path, "roberta", pad_token_id=1)
    embedder = encoder(files)

    assert counts(embedder, ["a" * 90]) == [WINDOW - 2]
