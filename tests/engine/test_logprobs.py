"""Logprobs: what the model thought, with the piece that shows the token, alone or in any batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel
from olla.engine.logprobs import LogprobQueue, score
from olla.engine.token_bytes import TokenBytes
from olla.requests import TokenLogprob
from tests.engine.driving import (
    SAMPLED,
    add,
    answers,
    ask,
    drain,
    finished,
    lark,
    logprobs_of,
    pieces,
    text_of,
)
from tests.tiny_model import EOS


@pytest.fixture
def engine(tiny: LoadedModel) -> Engine:
    return Engine(tiny)


@pytest.fixture(scope="module")
def token_bytes(tiny: LoadedModel) -> TokenBytes:
    return TokenBytes(tiny.tokenizer)


def named(name: str) -> TokenLogprob:
    return TokenLogprob(name, name.encode(), -1.0)


def test_a_score_is_the_logarithm_of_the_probability(token_bytes: TokenBytes) -> None:
    probabilities = torch.zeros(1, 259)
    probabilities[0, 65:68] = torch.tensor([0.5, 0.3, 0.2])

    (found,) = score(probabilities.log() + 7, [66], 2, token_bytes)

    assert found.logprob == pytest.approx(math.log(0.3))
    assert [top.raw for top in found.top] == [token_bytes(65), token_bytes(66)]
    assert [top.logprob for top in found.top] == pytest.approx([math.log(0.5), math.log(0.3)])


@pytest.mark.parametrize("logit", [-math.inf, math.nan])
def test_what_json_cannot_write_becomes_a_very_small_number(
    token_bytes: TokenBytes, logit: float
) -> None:
    logits = torch.zeros(1, 259)
    logits[0, 5] = logit

    assert score(logits, [5], 0, token_bytes)[0].logprob == -9999.0


@pytest.mark.parametrize("logit", [-math.inf, math.nan])
def test_a_broken_model_has_scores_all_the_same(token_bytes: TokenBytes, logit: float) -> None:
    (found,) = score(torch.full((1, 259), logit), [5], 3, token_bytes)

    assert {found.logprob, *(top.logprob for top in found.top)} == {-9999.0}


def test_the_first_of_equal_tokens_come_first(token_bytes: TokenBytes) -> None:
    (found,) = score(torch.zeros(1, 259), [5], 3, token_bytes)

    assert [top.raw for top in found.top] == [token_bytes(token) for token in range(3)]


def test_a_row_is_scored_the_same_in_any_batch(token_bytes: TokenBytes) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(200, 259) * 2).bfloat16().float()
    tokens = list(range(200))

    together = score(logits, tokens, 5, token_bytes)

    for place in (0, 63, 64, 199):
        alone = score(logits[place : place + 1], [place], 5, token_bytes)
        assert together[place] == alone[0]


@pytest.mark.parametrize("top_logprobs", [0, 1, 20])
def test_every_token_of_a_reply_has_one(engine: Engine, top_logprobs: int) -> None:
    wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": top_logprobs}
    messages = answers(engine, ask(1, sampling=SAMPLED, logit_bias={EOS: -100.0}, **wanted))

    logprobs = logprobs_of(messages)
    raw = b"".join(logprob.raw for logprob in logprobs)
    assert len(logprobs) == finished(messages).num_tokens == 12
    assert {len(logprob.top) for logprob in logprobs} == {top_logprobs}
    assert raw == b"".join(map(TokenBytes(engine._tokenizer), finished(messages).context[5:]))


def test_greedy_takes_the_likeliest(engine: Engine) -> None:
    logprobs = logprobs_of(answers(engine, ask(1, logprobs=True, top_logprobs=1)))

    assert all(logprob.raw == logprob.top[0].raw for logprob in logprobs)


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_bias": {65: 100.0}},
        {"grammar": lark("start: /[a-z]{12}/")},
        {"sampling": SAMPLED},
    ],
)
def test_they_are_what_scoring_the_same_text_gives(
    engine: Engine, settings: dict[str, Any]
) -> None:
    """Neither a bias nor a grammar nor a temperature shows in them."""
    messages = answers(engine, ask(1, logprobs=True, top_logprobs=3, **settings))
    context = finished(messages).context

    scored = answers(
        engine,
        ask(2, "", context=context, num_predict=0, echo=True, logprobs=True, top_logprobs=3),
    )

    expected = logprobs_of(scored)[5:]
    found = logprobs_of(messages)
    assert [logprob.raw for logprob in found] == [logprob.raw for logprob in expected]
    assert [logprob.logprob for logprob in found] == pytest.approx(
        [logprob.logprob for logprob in expected], abs=1e-3
    )


def test_rows_that_want_them_and_rows_that_do_not_draw_as_alone(engine: Engine) -> None:
    wants: list[dict[str, Any]] = [{"logprobs": True, "top_logprobs": 5}, {}, {"logprobs": True}]
    requests = [ask(n, f"prompt {n}", sampling=SAMPLED, **wants[n]) for n in range(3)]
    alone = [text_of(answers(engine, ask(n, f"prompt {n}", sampling=SAMPLED))) for n in range(3)]

    for request in requests:
        add(engine, request)
    together = drain(engine)

    assert [text_of(together[n]) for n in range(3)] == alone
    assert [bool(logprobs_of(together[n])) for n in range(3)] == [True, False, True]


def test_tokens_of_one_character_come_with_it(engine: Engine) -> None:
    messages = answers(engine, ask(1, grammar=lark('start: "aé日"'), logprobs=True))

    found = [(p.text, [logprob.raw for logprob in p.logprobs]) for p in pieces(messages)]
    assert found == [
        ("a", [b"a"]),
        ("é", [b"\xc3", b"\xa9"]),
        ("日", [b"\xe6", b"\x97", b"\xa5"]),
    ]
    assert [logprob.text for logprob in logprobs_of(messages)[:2]] == ["a", "\ufffd"]


def test_tokens_of_a_stop_string_have_none(engine: Engine) -> None:
    grammar = lark('start: "one stop two"')
    messages = answers(engine, ask(1, grammar=grammar, stop=["stop"], logprobs=True))

    assert text_of(messages) == "one "
    assert b"".join(logprob.raw for logprob in logprobs_of(messages)) == b"one "
    assert finished(messages).stop_sequence == "stop"


def test_held_back_tokens_come_with_the_text_that_was_held_back(engine: Engine) -> None:
    grammar = lark('start: "a sto b"')
    messages = answers(engine, ask(1, grammar=grammar, stop=["stop"], logprobs=True))

    for piece in pieces(messages):
        assert piece.text == "".join(logprob.text for logprob in piece.logprobs)
    assert text_of(messages) == "a sto b"


def test_an_end_token_has_none(engine: Engine) -> None:
    messages = answers(engine, ask(1, logprobs=True, logit_bias={EOS: 100.0}))

    assert finished(messages).num_tokens == 1
    assert logprobs_of(messages) == []


TOKENS = ["He", "llo", " ", "wor", "", "ld", "!"]


@pytest.mark.parametrize("held", range(1, 6))
def test_whatever_is_held_back_all_come_in_order_with_their_text(held: int) -> None:
    queue, known, shown, found = LogprobQueue(), "", "", []
    for token in TOKENS:
        queue.push(named(token), token)
        known += token
        piece = known[len(shown) : max(len(known) - held, len(shown))]
        shown += piece
        for logprob in queue.show(piece):
            assert shown.endswith(logprob.text) or logprob.text in shown
            found.append(logprob.text)
    rest = queue.finish(known[len(shown) :], is_cut=False)

    assert [*found, *(logprob.text for logprob in rest)] == TOKENS


@pytest.mark.parametrize(
    ("cut", "expected"), [(0, []), (1, ["He"]), (2, ["He"]), (3, ["He", "llo"]), (5, ["He", "llo"])]
)
def test_a_token_that_a_stop_string_cuts_counts_if_some_of_it_shows(
    cut: int, expected: list[str]
) -> None:
    queue = LogprobQueue()
    for token in TOKENS:
        queue.push(named(token), token)

    shown = queue.show("Hello"[:cut]) + queue.finish("", is_cut=True)

    assert [logprob.text for logprob in shown] == expected


def test_a_token_without_text_at_the_end_comes_last() -> None:
    queue = LogprobQueue()
    queue.push(named("<pad>"), "")

    assert queue.show("") == []
    assert queue.finish("", is_cut=False) == [named("<pad>")]
