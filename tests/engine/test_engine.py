"""The loop: sequences join, stream, end, leave and shift, and do not disturb each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer, models

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.errors import BadInput, PromptTooLong
from olla.options import SamplingParams
from olla.runner.protocol import Finished, FromRunner, Generate, Piece
from tests.tiny_model import BOS, EOS, save_tiny_model

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, seed=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    files = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    return load_model(files, "float32", "cpu", 0, lambda done, total: None)


@pytest.fixture
def engine(model: LoadedModel) -> Engine:
    return Engine(model)


def ask(number: int, prompt: str = "hello", **settings: Any) -> Generate:
    request = Generate(
        id=number, prompt=prompt, num_ctx=256, sampling=GREEDY, num_predict=12, want_context=True
    )
    return msgspec.structs.replace(request, **settings)


def add(engine: Engine, request: Generate) -> None:
    engine.add(request, engine.encode(request.prompt, request.add_special_tokens))


def drain(engine: Engine) -> dict[int, list[FromRunner]]:
    """Step until nothing is left to do."""
    messages: dict[int, list[FromRunner]] = {}
    for _ in range(10_000):
        if not engine.has_work:
            return messages
        for message in engine.step():
            assert isinstance(message, Piece | Finished)
            messages.setdefault(message.id, []).append(message)
    raise AssertionError("the engine does not come to an end")


def finished(messages: list[FromRunner]) -> Finished:
    last = messages[-1]
    assert isinstance(last, Finished)
    return last


def text_of(messages: list[FromRunner]) -> str:
    return "".join(message.text for message in messages if isinstance(message, Piece))


def reply(engine: Engine, request: Generate) -> tuple[str, Finished]:
    add(engine, request)
    messages = drain(engine)[request.id]
    return text_of(messages), finished(messages)


def test_a_reply_is_as_long_as_num_predict(engine: Engine) -> None:
    _, end = reply(engine, ask(1, num_predict=5))

    assert (end.reason, end.num_tokens, end.num_prompt_tokens) == ("length", 5, 5)
    assert len(end.context) == 10


def test_num_predict_0_computes_the_prompt_and_says_nothing(engine: Engine) -> None:
    text, end = reply(engine, ask(1, num_predict=0))

    assert (text, end.reason, end.num_tokens) == ("", "length", 0)
    assert end.prompt_ns > 0


def test_the_same_seed_gives_the_same_text_alone_and_in_a_batch(engine: Engine) -> None:
    alone = [reply(engine, ask(n, f"prompt {n}", sampling=SAMPLED))[0] for n in range(4)]

    for n in range(4):
        add(engine, ask(n, f"prompt {n}", sampling=SAMPLED))
    together = drain(engine)

    assert [text_of(together[n]) for n in range(4)] == alone


def test_without_a_seed_texts_differ(engine: Engine) -> None:
    free = SamplingParams(temperature=1.5, top_k=0, top_p=1.0)
    texts = {reply(engine, ask(n, sampling=free))[0] for n in range(5)}

    assert len(texts) > 1


@pytest.mark.parametrize("name", ["repeat_penalty", "presence_penalty", "frequency_penalty"])
def test_a_penalty_keeps_a_reply_from_repeating_itself(engine: Engine, name: str) -> None:
    penalties: dict[str, Any] = {name: 1e9}
    sampling = dataclasses.replace(GREEDY, repeat_last_n=-1, **penalties)

    _, end = reply(engine, ask(1, sampling=sampling, num_predict=60))

    generated = end.context[5:]
    assert len(set(generated)) == len(generated)


def test_a_prompt_in_chunks_gives_the_reply_of_the_whole(model: LoadedModel) -> None:
    whole = reply(Engine(model), ask(1, "x" * 100))[0]

    chunked = reply(Engine(model, tokens_per_step=7), ask(1, "x" * 100))[0]

    assert chunked == whole


def test_a_second_turn_computes_only_what_is_new(engine: Engine) -> None:
    _, first = reply(engine, ask(1, "the first turn of a conversation"))
    _, second = reply(engine, ask(2, "the first turn of a conversation, and the second"))

    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens == 32
    assert second.num_prompt_tokens == 48


def test_a_prefix_from_the_cache_gives_the_text_of_a_fresh_engine(
    engine: Engine, model: LoadedModel
) -> None:
    prompt = "a prompt that is longer than a few blocks of the cache are"
    fresh = reply(Engine(model), ask(1, prompt))[0]
    reply(engine, ask(1, prompt[:40]))

    assert reply(engine, ask(2, prompt))[0] == fresh


def test_with_little_cache_all_requests_end_as_they_do_with_much(model: LoadedModel) -> None:
    """Sequences make way for each other and come back; none fails, none says anything else."""
    requests = [ask(n, f"prompt number {n}", sampling=SAMPLED, num_predict=40) for n in range(6)]
    plenty, scarce = Engine(model), Engine(model, cache_tokens=128)
    for engine in (plenty, scarce):
        for request in requests:
            add(engine, request)

    expected, found = drain(plenty), drain(scarce)

    assert {n: text_of(found[n]) for n in found} == {n: text_of(expected[n]) for n in expected}
    assert scarce.num_free_blocks == 8


def test_a_window_larger_than_the_cache_is_cut_to_it(model: LoadedModel) -> None:
    engine = Engine(model, cache_tokens=64)

    _, end = reply(engine, ask(1, num_predict=-1, shift=False))

    assert len(end.context) == 64


def test_a_window_larger_than_the_model_knows_is_cut_to_it(model: LoadedModel) -> None:
    _, end = reply(Engine(model), ask(1, num_ctx=10_000, num_predict=600, shift=False))

    assert len(end.context) == 512


@pytest.mark.parametrize("num_ctx", [0, 1, 2])
@pytest.mark.parametrize("num_keep", [-1, 0, 4])
def test_the_smallest_windows_come_to_an_end(engine: Engine, num_ctx: int, num_keep: int) -> None:
    _, end = reply(engine, ask(1, num_ctx=num_ctx, num_keep=num_keep))

    assert (end.reason, end.num_tokens) == ("length", 12)


def test_a_request_joins_while_another_streams(engine: Engine) -> None:
    add(engine, ask(1, num_predict=30))
    for _ in range(5):
        engine.step()

    add(engine, ask(2, num_predict=5))
    order = []
    while engine.has_work:
        order += [message.id for message in engine.step() if isinstance(message, Finished)]

    assert order == [2, 1]


def test_a_cancelled_request_ends_within_a_step_and_frees_its_cache(engine: Engine) -> None:
    add(engine, ask(1, num_predict=-1))
    engine.step()
    free = engine.num_free_blocks

    engine.cancel(1)

    assert not engine.has_work
    assert engine.step() == []
    assert engine.num_free_blocks > free


def test_cancelling_what_is_not_there_is_no_error(engine: Engine) -> None:
    engine.cancel(99)


def test_a_stop_string_ends_the_reply_before_it(engine: Engine) -> None:
    text, _ = reply(engine, ask(1, num_predict=20))
    stop = text[4:7]

    cut, end = reply(engine, ask(2, num_predict=20, stop=[stop]))

    assert cut == text[: text.index(stop)]
    assert end.reason == "stop"


def test_an_end_token_ends_the_reply_and_is_not_shown(model: LoadedModel) -> None:
    plain = Engine(model)
    _, end = reply(plain, ask(1, num_predict=20))
    third = end.context[7]
    first = end.context.index(third, 5)
    ends = model.special_tokens.end_ids | {third}
    special_tokens = dataclasses.replace(model.special_tokens, end_ids=ends)

    engine = Engine(dataclasses.replace(model, special_tokens=special_tokens))

    _, stopped = reply(engine, ask(1, num_predict=20))

    assert stopped.reason == "stop"
    assert stopped.context == end.context[:first]


def test_a_full_window_ends_the_reply_when_it_may_not_shift(engine: Engine) -> None:
    _, end = reply(engine, ask(1, num_predict=-1, num_ctx=16, shift=False))

    assert end.reason == "length"
    assert len(end.context) == 16


def test_a_full_window_shifts_and_the_reply_goes_on(engine: Engine) -> None:
    _, end = reply(engine, ask(1, num_predict=50, num_ctx=16, num_keep=2))

    assert end.num_tokens == 50
    assert len(end.context) < 16
    assert end.context[:2] == engine.encode("he", False)


@pytest.mark.parametrize("settings", [{"shift": False}, {"truncate": False}])
def test_a_prompt_past_the_window_is_refused_when_it_may_not_be_cut(
    engine: Engine, settings: dict[str, bool]
) -> None:
    with pytest.raises(PromptTooLong, match="longer than the context length") as caught:
        add(engine, ask(1, "x" * 16, num_ctx=16, **settings))
    assert "(prompt is too long: 16 tokens > 15 maximum)" in str(caught.value)
    assert not engine.has_work


def test_a_prompt_past_the_window_keeps_its_beginning_and_its_newest_part(engine: Engine) -> None:
    prompt = "".join(chr(ord("a") + n % 26) for n in range(40))

    _, end = reply(engine, ask(1, prompt, num_ctx=20, num_keep=4, num_predict=0))

    assert end.num_prompt_tokens == 12
    assert end.context == engine.encode(prompt[:4] + prompt[-8:], False)


@pytest.mark.parametrize("tokens", [[-1], [259], [10**9]])
def test_a_number_that_is_no_token_is_refused(engine: Engine, tokens: list[int]) -> None:
    with pytest.raises(BadInput, match="not in the vocabulary"):
        engine.add(ask(1), tokens)


def test_a_tokenizer_that_was_saved_to_cut_and_pad_does_neither(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    tokenizer = Tokenizer.from_file(files["tokenizer.json"])
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(files["tokenizer.json"])
    engine = Engine(load_model(files, "float32", "cpu", 0, lambda done, total: None))

    assert len(engine.encode("seven b", True)) == 7


def test_a_text_that_the_tokenizer_cannot_read_is_refused(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    Tokenizer(models.Unigram([("a", 0.0)])).save(files["tokenizer.json"])
    engine = Engine(load_model(files, "float32", "cpu", 0, lambda done, total: None))

    with pytest.raises(BadInput, match="cannot be tokenized"):
        engine.encode("b", False)


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(BadInput, match="the prompt is empty"):
        engine.add(ask(1), [])


def test_a_prompt_of_only_special_tokens_is_answered(engine: Engine) -> None:
    _, end = reply(engine, ask(1, "<bos><eos>", num_predict=3))

    assert end.context[:2] == [BOS, EOS]
    assert end.num_tokens >= 1


def test_a_thousand_requests_of_which_half_leave_all_come_to_an_end(engine: Engine) -> None:
    free = engine.num_free_blocks
    for number in range(1000):
        add(engine, ask(number, num_predict=2))
    done = set()
    for number in range(0, 1000, 2):
        engine.cancel(number)
        if number % 20 == 0:
            done |= {m.id for m in engine.step() if isinstance(m, Finished)}

    done |= set(drain(engine))

    assert done >= set(range(1, 1000, 2))
    assert engine.num_free_blocks == free


def test_an_adapter_that_does_not_exist_is_a_clear_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no adapter_config"):
        add(engine, ask(1, adapters=[{"adapter_model.safetensors": str(tmp_path / "none")}]))
    assert not engine.has_work
