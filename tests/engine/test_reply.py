"""What comes of a sequence: the prompt if it was wanted, pieces of text, and how it ended."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel
from olla.engine.reply import Reply, repeats_for_certain
from olla.engine.sequence import Sequence
from olla.options import SamplingParams
from olla.runner.protocol import Finished, Piece
from tests.engine.driving import (
    GREEDY,
    SAMPLED,
    add,
    answers,
    ask,
    drain,
    finished,
    lark,
    logprobs_of,
    pieces,
    reply,
    text_of,
)
from tests.tiny_model import BOS, EOS

SCORE: dict[str, Any] = {"echo": True, "logprobs": True, "num_predict": 0}
PROMPT = "a prompt that is longer than a few blocks of the cache are, né"


@pytest.fixture
def engine(tiny: LoadedModel) -> Engine:
    return Engine(tiny)


def logprobs_and_tops(engine: Engine) -> tuple[list[Any], list[Any]]:
    found = logprobs_of(answers(engine, ask(1, PROMPT, top_logprobs=2, **SCORE)))
    return [logprob.logprob for logprob in found], [
        [top.raw for top in logprob.top] for logprob in found
    ]


def test_an_echo_comes_first_and_word_for_word(engine: Engine) -> None:
    messages = answers(engine, ask(1, "<bos>né", echo=True))

    assert pieces(messages)[0] == Piece(1, "<bos>né")
    assert text_of(messages)[len("<bos>né") :] == reply(engine, ask(2, "<bos>né"))[0]


@pytest.mark.parametrize("context", [[], [BOS]])
def test_an_echo_without_a_reply_is_the_prompt_scored(engine: Engine, context: list[int]) -> None:
    messages = answers(engine, ask(1, "né", context=context, **SCORE))

    echo, end = messages
    assert isinstance(echo, Piece) and isinstance(end, Finished)
    assert echo.text == ("<bos>né" if context else "né")
    assert [logprob.raw for logprob in echo.logprobs][-3:] == [b"n", b"\xc3", b"\xa9"]
    assert echo.logprobs[0].logprob is None
    assert all(logprob.logprob is not None for logprob in echo.logprobs[1:])
    assert (end.reason, end.num_tokens) == ("length", 0)


def test_scores_are_those_of_the_model_itself(tiny: LoadedModel, engine: Engine) -> None:
    """Each token's score is what a reply that has to be that token is given."""
    text = "abc"
    scored = logprobs_of(answers(engine, ask(1, f"hello{text}", **SCORE)))

    forced = answers(engine, ask(2, grammar=lark(f'start: "{text}"'), logprobs=True))

    assert [logprob.logprob for logprob in logprobs_of(forced)] == pytest.approx(
        [logprob.logprob for logprob in scored[5:]], abs=1e-3
    )


@pytest.mark.parametrize("tokens_per_step", [1, 7, 16, 63])
def test_a_prompt_in_chunks_has_the_scores_of_the_whole(
    tiny: LoadedModel, tokens_per_step: int
) -> None:
    whole, tops = logprobs_and_tops(Engine(tiny))

    found, found_tops = logprobs_and_tops(Engine(tiny, tokens_per_step=tokens_per_step))

    assert found[1:] == pytest.approx(whole[1:], abs=1e-3)
    assert found_tops == tops


def test_a_prompt_that_is_in_the_cache_is_scored_all_the_same(engine: Engine) -> None:
    first, _ = logprobs_and_tops(engine)
    again, _ = logprobs_and_tops(engine)
    _, end = reply(engine, ask(2, PROMPT))

    assert again[1:] == pytest.approx(first[1:], abs=1e-3)
    assert end.num_cached_tokens > 0


def test_prompts_that_make_way_for_others_are_scored_all_the_same(tiny: LoadedModel) -> None:
    expected, _ = logprobs_and_tops(Engine(tiny))
    scarce = Engine(tiny, cache_tokens=128, tokens_per_step=5)
    settings: dict[str, Any] = {"echo": True, "logprobs": True, "num_predict": 30}
    for number in range(6):
        add(scarce, ask(number, PROMPT, **settings))

    messages = drain(scarce)

    for number in range(6):
        found = [logprob.logprob for logprob in pieces(messages[number])[0].logprobs]
        assert found[1:] == pytest.approx(expected[1:], abs=1e-3)
    assert scarce.num_free_blocks == 8


def test_scoring_does_not_disturb_those_who_reply(engine: Engine) -> None:
    alone = reply(engine, ask(0, "other", sampling=SAMPLED, num_predict=30))[0]

    add(engine, ask(0, "other", sampling=SAMPLED, num_predict=30))
    for number in range(1, 4):
        add(engine, ask(number, PROMPT * number, **SCORE))
    messages = drain(engine)

    assert text_of(messages[0]) == alone
    assert text_of(messages[3]) == PROMPT * 3


def test_a_prompt_that_was_cut_is_echoed_as_it_was_run(engine: Engine) -> None:
    messages = answers(engine, ask(1, "0123456789" * 3, num_ctx=20, num_keep=2, **SCORE))

    assert finished(messages).num_truncated_tokens == 19
    assert text_of(messages) == "01" + "123456789"
    assert len(logprobs_of(messages)) == 11


def test_a_finished_reply_says_which_stop_string_ended_it(engine: Engine) -> None:
    grammar = lark('start: "one two three"')

    _, end = reply(engine, ask(1, grammar=grammar, num_predict=50, stop=["three", "wo t", "two"]))
    _, whole = reply(engine, ask(2, grammar=grammar, num_predict=50, stop=["four"]))

    assert (end.reason, end.stop_sequence) == ("stop", "two")
    assert (whole.reason, whole.stop_sequence) == ("stop", "")


def test_a_bias_forces_and_bans(engine: Engine) -> None:
    free, _ = reply(engine, ask(1, logit_bias={EOS: -100.0}))
    first = finished(answers(engine, ask(1))).context[5]

    forced, _ = reply(engine, ask(2, logit_bias={engine.encode("z", False)[0]: 100.0}))
    _, banned = reply(engine, ask(3, logit_bias={first: -100.0}))

    assert (forced, free != forced) == ("z" * 12, True)
    assert first not in banned.context[5:]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_piece_that_repeats_itself_too_often_ends_the_reply(
    engine: Engine, sampling: SamplingParams
) -> None:
    bias = {engine.encode("z", False)[0]: 100.0}

    text, end = reply(engine, ask(1, sampling=sampling, num_predict=100, logit_bias=bias))

    assert (text, end.reason) == ("z" * 32, "length")


def test_a_greedy_reply_that_goes_round_in_a_circle_comes_to_an_end(tiny: LoadedModel) -> None:
    sequence = Sequence(id=1, tokens=[1], sampling=GREEDY, max_length=10**6)
    going = Reply.begin(ask(1), sequence, tiny.tokenizer, None, None, 0)

    for token in itertools.islice(itertools.cycle([65, 66, 67]), 2048):
        assert going.ending is None
        going.push(token, None)

    assert going.ending == "length"


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.1}, {"repeat_penalty": 1.1}, {"presence_penalty": 0.1}]
)
def test_only_greedy_replies_without_penalties_repeat_for_certain(changes: dict[str, Any]) -> None:
    assert repeats_for_certain(GREEDY)
    assert not repeats_for_certain(dataclasses.replace(GREEDY, **changes))
