"""Drafts change how long a reply takes, never what it says."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import find_library
from olla.engine.profile import NoProfile
from olla.engine.speculation import Offer, StepCosts
from olla.engine.speculator import Speculation, speculation_of
from olla.options import SamplingParams
from olla.runner.protocol import Adapter, Failed, Finished, FromRunner, Generate
from tests.engine.driving import (
    GREEDY,
    SAMPLED,
    add,
    ask,
    drain,
    logprobs_of,
    reply,
    schema,
    text_of,
)
from tests.engine.test_adapters import save_adapter
from tests.tiny_model import files_of, save_tiny_model

REPEATING = "one two three, one two three, one two three, one two"


class Eager(StepCosts):
    """Drafts whatever can be drafted."""

    def lengths(self, offers: Sequence[Offer]) -> list[int]:
        return [offer.most for offer in offers]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that drafts for the tiny one and is sometimes right: it is it, rounded."""
    files = save_tiny_model(tmp_path_factory.mktemp("other"))
    return load_model(files, "bfloat16", "cpu", 0, lambda done, total: None)


def eager(model: LoadedModel, draft: LoadedModel | None = None, **settings: Any) -> Engine:
    return Engine(model, speculation=Speculation(Eager(), draft), **settings)


def said(messages: list[FromRunner]) -> tuple[str, object, object]:
    """All that a client sees of a reply but how long it took."""
    last = messages[-1]
    if isinstance(last, Failed):
        return text_of(messages), last.kind, last.text
    assert isinstance(last, Finished)
    tokens = (last.num_prompt_tokens, last.num_tokens, tuple(last.context), last.stop_sequence)
    logprobs = [(item.text, round(item.logprob or 0, 4)) for item in logprobs_of(messages)]
    return text_of(messages), (last.reason, tokens), logprobs


def all_said(engine: Engine, requests: Sequence[Generate]) -> dict[int, object]:
    for request in requests:
        add(engine, request)
    return {number: said(messages) for number, messages in drain(engine).items()}


def test_a_greedy_reply_is_drafted_and_the_same(tiny: LoadedModel) -> None:
    request = ask(1, REPEATING, num_predict=120)

    text, plain = reply(Engine(tiny), request)
    drafted, end = reply(eager(tiny), request)

    assert (drafted, end.context) == (text, plain.context)
    assert (plain.num_drafted_tokens, plain.num_accepted_tokens) == (0, 0)
    assert 0 < end.num_accepted_tokens <= end.num_drafted_tokens


def test_a_reply_that_repeats_takes_fewer_steps(tiny: LoadedModel) -> None:
    """A tiny random model falls into a circle before long."""
    engine = eager(tiny)
    add(engine, ask(1, num_predict=200))
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1

    assert steps < 100


@pytest.mark.parametrize("draft", [False, True])
def test_whatever_is_asked_the_text_is_the_same(
    tiny: LoadedModel, other: LoadedModel, *, draft: bool
) -> None:
    """Random requests side by side, in a cache that is too small for all of them."""
    chance = random.Random(11)
    for _ in range(2):
        requests = [a_request(number, chance) for number in range(5)]
        tokens = chance.choice([320, 1024])

        plain = all_said(Engine(tiny, cache_tokens=tokens), requests)
        drafted = all_said(eager(tiny, other if draft else None, cache_tokens=tokens), requests)

        assert drafted == plain


def a_request(number: int, chance: random.Random) -> Generate:
    sampling = SamplingParams(
        temperature=chance.choice([0.0, 0.3, 0.8, 1.5]),
        top_k=chance.choice([0, 3, 40]),
        top_p=chance.choice([0.5, 0.9, 1.0]),
        min_p=chance.choice([0.0, 0.1]),
        typical_p=chance.choice([1.0, 0.7]),
        seed=chance.randrange(1000),
        repeat_last_n=chance.choice([-1, 0, 5, 64]),
        repeat_penalty=chance.choice([1.0, 1.0, 1.2]),
        presence_penalty=chance.choice([0.0, 0.0, 0.5]),
        frequency_penalty=chance.choice([0.0, 0.0, 0.3]),
    )
    words = [chance.choice(["one ", "two ", "a b "]) for _ in range(chance.randrange(1, 12))]
    return ask(
        number,
        "".join(words) * 2,
        sampling=sampling,
        num_ctx=chance.choice([40, 80, 256]),
        num_predict=chance.choice([0, 1, 2, 17, 40]),
        num_keep=chance.choice([0, 4]),
        num_draft=chance.choice([-1, 0, 2, 3]),
        shift=chance.random() < 0.7,
        stop=chance.choice([[], ["e"], ["xyz", "o t"]]),
        logprobs=chance.random() < 0.4,
        top_logprobs=chance.choice([0, 3]),
        echo=chance.random() < 0.2,
        logit_bias=chance.choice([{}, {101: 3.0}]),
        grammar=chance.choice([None, None, schema('{"type": "array", "items": {"enum": [1, 2]}}')]),
    )


def test_each_kind_of_draft_is_sometimes_right(tiny: LoadedModel, other: LoadedModel) -> None:
    request = ask(1, "abcdefgh", num_predict=6, sampling=dataclasses.replace(SAMPLED, top_k=2))

    _, alone = reply(eager(tiny), request)
    _, end = reply(eager(tiny, other), request)

    assert alone.num_drafted_tokens == 0
    assert end.num_accepted_tokens > 0


def test_a_draft_model_keeps_up_with_a_long_prompt_and_a_shifting_window(
    tiny: LoadedModel, other: LoadedModel
) -> None:
    request = ask(
        1, "".join(map(str, range(70))), num_ctx=150, num_predict=30, num_draft=3, sampling=SAMPLED
    )

    text, _ = reply(Engine(tiny), request)
    drafted, end = reply(eager(tiny, other), request)

    assert drafted == text
    assert end.num_accepted_tokens > 0


def test_a_draft_model_may_lack_tokens_of_the_prompt(tiny: LoadedModel, tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, vocab_size=200, pad_token_id=None)
    small = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    request = ask(1, f"{REPEATING}<pad>", num_predict=30)
    assert max(tiny.tokenizer.encode(request.prompt).ids) > 200

    drafted, end = reply(eager(tiny, small), request)

    assert drafted == reply(Engine(tiny), request)[0]
    assert end.num_drafted_tokens > 0


def test_a_second_turn_finds_what_drafts_have_filled(tiny: LoadedModel) -> None:
    """The cache is found by tokens that were accepted, never by ones that were not."""
    plain, drafting = Engine(tiny), eager(tiny)
    request = ask(1, REPEATING, num_predict=100, sampling=dataclasses.replace(GREEDY, seed=1))
    first, second = reply(plain, request)[1], reply(drafting, request)[1]
    assert first.context == second.context

    again = {"context": first.context, "num_predict": 30}
    text, found = reply(plain, ask(2, " and", **again))
    drafted, end = reply(drafting, ask(2, " and", **again))

    assert drafted == text
    assert end.num_cached_tokens == found.num_cached_tokens > 100


def test_a_cancelled_reply_leaves_nothing(tiny: LoadedModel, other: LoadedModel) -> None:
    engine = eager(tiny, other)
    free = engine.num_free_blocks
    add(engine, ask(1, REPEATING, num_predict=200))
    for _ in range(4):
        engine.step()

    engine.cancel(1)

    assert (engine.has_work, engine.num_free_blocks) == (False, free)
    assert reply(engine, ask(2, REPEATING))[0] == reply(Engine(tiny), ask(2, REPEATING))[0]


def test_memory_that_runs_out_in_a_wide_step_costs_one_reply(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = eager(tiny)
    forward = tiny.network.forward
    failures = iter([True])

    def fails_once(batch: Any) -> Any:
        if len(batch.tokens) > 2 and len(batch.logit_rows) == len(batch.tokens):
            for _ in failures:
                raise MemoryError
        return forward(batch)

    add(engine, ask(1, REPEATING * 3, num_predict=60))
    add(engine, ask(2, REPEATING, num_predict=60))
    monkeypatch.setattr(tiny.network, "forward", fails_once)
    messages = drain(engine)
    monkeypatch.undo()

    assert isinstance(messages[1][-1], Failed)
    assert text_of(messages[2]) == reply(Engine(tiny), ask(2, REPEATING, num_predict=60))[0]


def test_an_adapter_is_verified_with_its_own_weights(other: LoadedModel, tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    adapter = Adapter(files_of(tmp_path / "adapter"))
    requests = [
        ask(number, REPEATING, num_predict=20, num_draft=3, adapters=[adapter] * (number % 2))
        for number in range(3)
    ]
    # An engine lays adapters over its model, so each has a model of its own.
    models = [load_model(files, "float32", "cpu", 0, lambda done, total: None) for _ in range(2)]

    plain = all_said(Engine(models[0]), requests)
    drafted = all_said(eager(models[1], other), requests)

    assert drafted == plain
    assert plain[0] != plain[1]


@pytest.mark.skipif(find_library() is None, reason="no compiled core")
@pytest.mark.parametrize(("module", "is_drafted"), [("q_proj", True), ("lm_head", False)])
def test_what_torch_computes_beside_the_core_is_not_drafted(
    tmp_path: Path, module: str, *, is_drafted: bool
) -> None:
    files = save_tiny_model(tmp_path)
    save_adapter(tmp_path, tmp_path / "adapter", seed=1, target_modules=[module])
    plain, drafted = (
        load_model(files, "auto", "cpu", 0, lambda done, total: None, quantize="int8")
        for _ in range(2)
    )
    assert isinstance(drafted.network, NativeDecoder)
    adapter = Adapter(files_of(tmp_path / "adapter"))
    request = ask(1, REPEATING, num_predict=60, adapters=[adapter])

    text, _ = reply(Engine(plain), request)
    same, end = reply(eager(drafted), request)

    assert same == text
    assert bool(end.num_drafted_tokens) == is_drafted


def test_an_option_turns_drafts_off_for_a_request(tiny: LoadedModel) -> None:
    _, end = reply(eager(tiny), ask(1, REPEATING, num_predict=60, num_draft=0))

    assert end.num_drafted_tokens == 0


class Widths(NoProfile):
    """Notes how many tokens each step drafted."""

    def __init__(self) -> None:
        super().__init__()
        self.drafted: list[int] = []

    def end_step(
        self, num_tokens: int, *, is_last: bool, drafted: int = 0, accepted: int = 0
    ) -> None:
        assert accepted <= drafted
        self.drafted.append(drafted)


def test_a_request_bounds_its_drafts(tiny: LoadedModel) -> None:
    widths = Widths()

    reply(eager(tiny, profile=widths), ask(1, REPEATING, num_predict=60, num_draft=2))

    assert max(widths.drafted) == 2


@pytest.mark.parametrize(
    ("speculate", "has_draft", "is_on"),
    [("auto", False, False), ("auto", True, True), ("on", False, True), ("off", True, False)],
)
def test_the_setting_says_where_to_draft(
    tiny: LoadedModel, speculate: str, *, has_draft: bool, is_on: bool
) -> None:
    found = speculation_of(tiny, tiny if has_draft else None, speculate)

    assert (found is not None) == is_on


@pytest.mark.skipif(find_library() is None, reason="no compiled core")
def test_the_compiled_core_drafts_by_itself(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    model = load_model(files, "auto", "cpu", 0, lambda done, total: None, quantize="int8")

    assert speculation_of(model, None, "auto") is not None
    assert speculation_of(model, model, "off") is None
