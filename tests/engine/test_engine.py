"""The loop: sequences join, stream, end, leave and shift, and do not disturb each other."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.models.batch import Batch, CausalModel
from olla.errors import BadInput, OutOfMemory
from olla.options import SamplingParams
from olla.runner.protocol import Adapter, Failed, FailureKind, Finished, FromRunner, Piece
from tests.engine.driving import GREEDY, SAMPLED, add, ask, drain, finished, reply, text_of
from tests.tiny_model import BOS, EOS, save_tiny_model

NO_END = {EOS: -100.0}


@pytest.fixture(scope="module")
def model(tiny: LoadedModel) -> LoadedModel:
    return tiny


@pytest.fixture
def engine(model: LoadedModel) -> Engine:
    return Engine(model)


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
    _, end = reply(
        Engine(model),
        ask(1, num_ctx=10_000, num_predict=600, shift=False, sampling=SAMPLED, logit_bias=NO_END),
    )

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


def test_a_prompt_of_only_special_tokens_is_answered(engine: Engine) -> None:
    _, end = reply(engine, ask(1, "<bos><eos>", num_predict=3))

    assert end.context[:2] == [BOS, EOS]
    assert end.num_tokens >= 1


def test_a_thousand_requests_of_which_half_leave_all_come_to_an_end(engine: Engine) -> None:
    """They leave at any time: while they wait, while their prompt is computed, while they reply."""
    chance = random.Random(7)
    free = engine.num_free_blocks
    leaving = set(chance.sample(range(1000), 500))
    for number in range(1000):
        add(engine, ask(number, num_predict=3))
    queued, done = sorted(leaving, key=lambda _: chance.random()), {}
    while engine.has_work:
        for message in engine.step():
            assert isinstance(message, Piece | Finished)
            if isinstance(message, Finished):
                done[message.id] = message
        for _ in range(chance.randrange(20)):
            if queued:
                engine.cancel(queued.pop())

    assert set(done) >= set(range(1000)) - leaving
    assert all(end.num_tokens == 3 for end in done.values())
    assert engine.num_free_blocks == free


@pytest.mark.parametrize("num_predict", [-1, -2])
def test_a_reply_without_a_bound_goes_on_until_it_leaves(engine: Engine, num_predict: int) -> None:
    unending = ask(1, num_predict=num_predict, num_ctx=32, sampling=SAMPLED, logit_bias=NO_END)
    add(engine, unending)
    for _ in range(300):
        assert not any(isinstance(message, Finished) for message in engine.step())

    engine.cancel(1)

    assert not engine.has_work


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": float("nan")},
        {"temperature": -5.0, "top_k": -3},
        {"top_p": float("nan"), "min_p": float("nan"), "typical_p": float("nan")},
        {"top_p": -1.0, "min_p": -1.0, "typical_p": -1.0},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": -2.0, "repeat_last_n": -7},
        {"repeat_penalty": float("nan"), "presence_penalty": float("nan")},
        {"presence_penalty": float("inf"), "frequency_penalty": -float("inf")},
    ],
)
def test_parameters_that_make_no_sense_disturb_nobody(
    engine: Engine, params: dict[str, Any]
) -> None:
    expected = reply(engine, ask(0, "other", sampling=SAMPLED))[0]
    sampling = SamplingParams(**{"temperature": 1.0, "seed": 1, **params})

    add(engine, ask(1, sampling=sampling))
    add(engine, ask(2, "other", sampling=SAMPLED))
    messages = drain(engine)

    assert finished(messages[1]).num_tokens >= 1
    assert text_of(messages[2]) == expected


def test_an_adapter_that_does_not_exist_is_a_clear_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no adapter_config"):
        files = {"adapter_model.safetensors": str(tmp_path / "none")}
        add(engine, ask(1, adapters=[Adapter(files)]))
    assert not engine.has_work


class ForgetfulNetwork:
    """A network that runs out of memory on steps with more than `most` tokens in their past."""

    def __init__(self, network: CausalModel, most: int) -> None:
        self._network = network
        self.most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def forward(self, batch: Batch) -> torch.Tensor:
        if int(batch.positions.max()) >= self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._network.forward(batch)


def forgetful(model: LoadedModel, most: int) -> Engine:
    return Engine(dataclasses.replace(model, network=ForgetfulNetwork(model.network, most)))


def test_running_out_of_memory_costs_the_longest_sequence_alone(
    model: LoadedModel, engine: Engine
) -> None:
    expected, _ = reply(engine, ask(1))
    poor = forgetful(model, most=40)
    for number, prompt in ((1, "hello"), (2, "x" * 35), (3, "hello")):
        add(poor, ask(number, prompt))

    messages: dict[int, list[FromRunner]] = {}
    while poor.has_work:
        for message in poor.step():
            assert isinstance(message, Piece | Finished | Failed)
            messages.setdefault(message.id, []).append(message)

    failed = messages[2][-1]
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.OUT_OF_MEMORY
    assert failed.text == (
        "the model ran out of memory at 41 tokens; use a smaller num_ctx or OLLA_KV_CACHE"
    )
    assert text_of(messages[1]) == text_of(messages[3]) == expected
    assert poor.num_free_blocks == engine.num_free_blocks


def test_a_step_that_fits_nothing_fails_every_request_and_the_engine_goes_on(
    model: LoadedModel,
) -> None:
    poor = forgetful(model, most=0)
    add(poor, ask(1))
    add(poor, ask(2))

    failures = poor.step()

    assert sorted(message.id for message in failures if isinstance(message, Failed)) == [1, 2]
    assert not poor.has_work
    assert poor.step() == []


def test_other_errors_of_a_step_are_not_taken_for_little_memory(model: LoadedModel) -> None:
    class Broken(ForgetfulNetwork):
        def forward(self, batch: Batch) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    broken = Engine(dataclasses.replace(model, network=Broken(model.network, 0)))
    add(broken, ask(1))

    with pytest.raises(RuntimeError, match="shapes"):
        broken.step()


def test_warming_up_leaves_no_trace(engine: Engine) -> None:
    free = engine.num_free_blocks
    engine.warm_up()

    assert engine.num_free_blocks == free
    assert not engine.has_work


def test_a_cache_that_does_not_fit_shows_when_warming_up(model: LoadedModel) -> None:
    with pytest.raises(OutOfMemory, match="for a cache of 16384 tokens"):
        forgetful(model, most=0).warm_up()
