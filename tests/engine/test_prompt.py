"""What is refused before a sequence is made, and how a prompt is cut to its window."""

from __future__ import annotations

from typing import Any

import pytest

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel
from olla.engine.prompt import MAX_ECHOED_LOGPROBS, check_echo
from olla.errors import BadInput, PromptTooLong
from tests.engine.driving import add, ask, reply

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the "
    "prompt, adjust the context length in settings, or use a model with a longer context length"
)


@pytest.fixture
def engine(tiny: LoadedModel) -> Engine:
    return Engine(tiny)


@pytest.mark.parametrize("settings", [{"shift": False}, {"truncate": False}])
def test_a_prompt_past_the_window_is_refused_when_it_may_not_be_cut(
    engine: Engine, settings: dict[str, bool]
) -> None:
    with pytest.raises(PromptTooLong) as caught:
        add(engine, ask(1, "x" * 20, num_ctx=16, **settings))

    assert str(caught.value) == f"{TOO_LONG} (20 tokens in the prompt, 16 in the context)"
    assert not engine.has_work


def test_a_prompt_past_the_window_keeps_its_beginning_and_its_newest_part(engine: Engine) -> None:
    prompt = "".join(chr(ord("a") + n % 26) for n in range(40))

    _, end = reply(engine, ask(1, prompt, num_ctx=20, num_keep=4, num_predict=0))

    assert (end.num_prompt_tokens, end.num_truncated_tokens) == (12, 28)
    assert end.context == engine.encode(prompt[:4] + prompt[-8:], False)


def test_a_prompt_that_fits_is_not_cut(engine: Engine) -> None:
    assert reply(engine, ask(1))[1].num_truncated_tokens == 0


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(BadInput, match="the prompt is empty"):
        engine.add(ask(1), [])


@pytest.mark.parametrize("tokens", [[-1], [259], [10**9]])
def test_a_number_that_is_no_token_is_refused(engine: Engine, tokens: list[int]) -> None:
    with pytest.raises(BadInput, match="not in the vocabulary"):
        engine.add(ask(1), tokens)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
        ({"logit_bias": {259: 1.0}}, "token 259, which is not in the vocabulary of 259"),
        ({"logit_bias": {-1: 1.0}}, "token -1, which is not in the vocabulary of 259"),
        ({"logit_bias": {7: 100.5}}, "logit_bias of token 7 must be between -100 and 100"),
        ({"logit_bias": {7: float("nan")}}, "logit_bias of token 7 must be between"),
    ],
)
def test_a_parameter_out_of_range_is_refused(
    engine: Engine, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        add(engine, ask(1, **settings))
    assert not engine.has_work


def test_more_echoed_logprobs_than_a_message_holds_are_refused() -> None:
    most = MAX_ECHOED_LOGPROBS // 21
    request = ask(1, echo=True, logprobs=True, top_logprobs=20)

    check_echo(request, most)
    with pytest.raises(BadInput, match=f"too much for a prompt of {most + 1} tokens"):
        check_echo(request, most + 1)
    check_echo(ask(1, echo=True, top_logprobs=20), 10**9)
