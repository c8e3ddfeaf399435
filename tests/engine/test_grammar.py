"""A constrained reply matches, whatever the model would rather say; others go on undisturbed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from olla.engine.engine import Engine
from olla.engine.grammar import MAX_COMPILED, MAX_SOURCE_BYTES, Constraint, Grammars
from olla.engine.loading import LoadedModel
from olla.engine.token_bytes import TokenBytes
from olla.errors import BadInput, NoTokenAllowed
from olla.options import SamplingParams
from olla.runner.protocol import Failed, FailureKind, Grammar
from tests.engine.driving import (
    GREEDY,
    SAMPLED,
    add,
    answers,
    ask,
    drain,
    finished,
    lark,
    reply,
    schema,
    text_of,
)
from tests.tiny_model import EOS, VOCAB_SIZE

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
LONG = lark("start: /[a-z]{60}/")


@pytest.fixture
def engine(tiny: LoadedModel) -> Engine:
    return Engine(tiny)


@pytest.fixture(scope="module")
def grammars(tiny: LoadedModel) -> Grammars:
    return Grammars(tiny.tokenizer, VOCAB_SIZE, {EOS}, TokenBytes(tiny.tokenizer))


def allowed(grammars: Grammars, grammar: Grammar, text: str = "") -> set[str]:
    """What may come after `text`, each as a token's text."""
    tokenizer = grammars._tokenizer
    constraint = grammars.constrain(grammar)
    for token in tokenizer.encode(text).ids:
        constraint.accept(token)
    tokens = next_tokens(constraint, VOCAB_SIZE)
    return {tokenizer.decode([token], skip_special_tokens=False) for token in tokens}


def next_tokens(constraint: Constraint, vocab_size: int) -> set[int]:
    mask = np.unpackbits(constraint.mask(vocab_size), count=vocab_size, bitorder="little")
    return {int(token) for token in mask.nonzero()[0]}


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_random_model_writes_what_the_schema_says(
    engine: Engine, sampling: SamplingParams
) -> None:
    text, end = reply(engine, ask(1, sampling=sampling, grammar=schema(PERSON), num_predict=1000))

    person = json.loads(text)
    assert person["name"] in {"Ann", "Bob"}
    assert person["age"] <= 99
    assert end.reason == "stop"


def test_a_reply_ends_when_its_grammar_does(engine: Engine) -> None:
    text, end = reply(engine, ask(1, grammar=lark('start: "yes" | "no"'), num_predict=100))

    assert (text in {"yes", "no"}, end.reason, end.num_tokens) == (True, "stop", len(text))


def test_a_reply_that_is_cut_says_so(engine: Engine) -> None:
    text, end = reply(engine, ask(1, grammar=LONG, num_predict=5))

    assert (len(text), end.reason) == (5, "length")


def test_it_may_end_where_the_grammar_may_and_nowhere_else(grammars: Grammars) -> None:
    grammar = lark('start: "ab" "c"*')

    assert allowed(grammars, grammar, "a") == {"b"}
    assert allowed(grammars, grammar, "ab") == {"c", "<eos>"}


def test_any_end_token_may_end_it(tiny: LoadedModel) -> None:
    several = Grammars(tiny.tokenizer, VOCAB_SIZE, {EOS, 256}, TokenBytes(tiny.tokenizer))

    assert allowed(several, lark('start: "a"*')) == {"a", "<eos>", "<bos>"}


def test_a_model_without_end_tokens_ends_with_the_grammar(tiny: LoadedModel) -> None:
    special_tokens = dataclasses.replace(tiny.special_tokens, end_ids=frozenset())
    engine = Engine(dataclasses.replace(tiny, special_tokens=special_tokens))

    text, end = reply(engine, ask(1, grammar=lark('start: "ok"')))

    assert (text, end.reason) == ("ok", "stop")


def test_whitespace_between_the_parts_of_json_is_bounded(grammars: Grammars) -> None:
    unbounded = json.dumps({"type": "array", "x-guidance": {"whitespace_pattern": "[ ]*"}})

    assert {" ", "\n"} <= allowed(grammars, schema(unbounded), "[")
    assert not {" ", "\n"} & allowed(grammars, schema(unbounded), "[ ")
    assert " " in allowed(grammars, schema(unbounded), "[\n" + " " * 39)
    assert not {" ", "\n"} & allowed(grammars, schema(unbounded), "[\n" + " " * 40)


@pytest.mark.parametrize("before", ["", "think", "</thin", "think>", "</think</thin"])
def test_nothing_is_constrained_before_the_text_it_comes_after(
    grammars: Grammars, before: str
) -> None:
    constraint = grammars.constrain(schema(PERSON, after="</think>"))

    for token in grammars._tokenizer.encode(before).ids:
        constraint.accept(token)

    assert not constraint.is_active
    assert not constraint.is_complete


def vocabulary_of(*texts: str) -> Tokenizer:
    """A byte-level vocabulary of these tokens and an end."""
    tokenizer = Tokenizer(models.BPE({text: place for place, text in enumerate(texts)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def letters_and(*texts: str) -> Grammars:
    tokenizer = vocabulary_of(*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", *texts)
    size = tokenizer.get_vocab_size()
    return Grammars(tokenizer, size, {size - 1}, TokenBytes(tokenizer))


@pytest.mark.parametrize("token", ['</x>{"', "x>ĊĊ", 'x>Ċ{"', ">ĠĠ"])
def test_a_token_that_holds_the_start_and_more_moves_the_grammar_along(token: str) -> None:
    grammars = letters_and(token)
    vocabulary = grammars._tokenizer.get_vocab()
    constraint = grammars.constrain(schema('{"type": "object"}', after="</x>"))
    before = "</x>"[: "</x>".index(token.split(">", maxsplit=1)[0] + ">")]

    for letter in before:
        constraint.accept(vocabulary[letter])
    assert not constraint.is_active
    constraint.accept(vocabulary[token])

    tokens = next_tokens(constraint, len(vocabulary))
    assert constraint.is_active
    assert (vocabulary["{"] in tokens) == ("{" not in token) or token.endswith('"')
    assert (vocabulary["a"] in tokens) == token.endswith('"')


def test_a_token_whose_rest_does_not_match_ends_the_reply() -> None:
    grammars = letters_and("</x>no")
    constraint = grammars.constrain(schema('{"type": "object"}', after="</x>"))

    with pytest.raises(NoTokenAllowed):
        constraint.accept(grammars._tokenizer.get_vocab()["</x>no"])


def test_a_reply_is_free_before_and_matches_after(engine: Engine, tiny: LoadedModel) -> None:
    token_bytes = TokenBytes(tiny.tokenizer)
    readable = {n: -100.0 for n in range(VOCAB_SIZE) if not token_bytes(n).isalpha()}
    request = ask(1, sampling=SAMPLED, num_predict=300, logit_bias=readable)
    free = reply(engine, request)[0]
    start = free[20:23]

    constrained = msgspec.structs.replace(request, grammar=schema(PERSON, after=start))
    text, end = reply(engine, constrained)

    before, _, after = text.partition(start)
    assert before == free[: free.index(start)]
    assert json.loads(after)["age"] <= 99
    assert end.reason == "stop"


def test_rows_with_and_without_grammars_do_not_disturb_each_other(engine: Engine) -> None:
    grammar: list[dict[str, Any]] = [{"grammar": schema(PERSON)}, {}, {"grammar": LONG}, {}]
    bias: list[dict[str, Any]] = [{}, {"logit_bias": {65: 9.0}}, {"logit_bias": {97: 5.0}}, {}]
    requests = [
        ask(n, f"prompt {n}", sampling=SAMPLED, num_predict=40, **grammar[n], **bias[n])
        for n in range(4)
    ]
    alone = [reply(engine, request)[0] for request in requests]

    for request in requests:
        add(engine, request)
    together = drain(engine)

    assert [text_of(together[n]) for n in range(4)] == alone


@pytest.mark.parametrize("grammar", [lark('start: "ab"'), lark('start: "ab"', after="aa")])
def test_a_reply_without_a_way_on_fails_alone(tiny: LoadedModel, grammar: Grammar) -> None:
    """A vocabulary that lacks what the grammar wants leaves it none in the middle of a reply."""
    engine = Engine(dataclasses.replace(tiny, tokenizer=vocabulary_of("a", "x")))
    for number, wanted in enumerate([grammar, None]):
        request = ask(number, "", grammar=wanted, num_predict=20, logit_bias={0: 100.0})
        engine.add(request, [0, 1], engine.constrain(request.grammar))

    messages = drain(engine)

    failed = messages[0][-1]
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.RUNNER
    assert failed.text.startswith("the model has no token with which the reply could go on")
    assert finished(messages[1]).num_tokens == 20
    assert engine.num_free_blocks == Engine(tiny).num_free_blocks


def test_making_way_and_coming_back_keeps_the_place_in_the_grammar(tiny: LoadedModel) -> None:
    requests = [
        ask(n, f"prompt number {n}", sampling=SAMPLED, num_predict=80, grammar=LONG)
        for n in range(6)
    ]
    plenty, scarce = Engine(tiny), Engine(tiny, cache_tokens=128)
    for engine in (plenty, scarce):
        for request in requests:
            add(engine, request)

    expected, found = drain(plenty), drain(scarce)

    assert {n: text_of(found[n]) for n in found} == {n: text_of(expected[n]) for n in expected}
    assert all(len(text_of(found[n])) == 60 for n in found)


def test_a_window_that_shifts_keeps_the_place_in_the_grammar(engine: Engine) -> None:
    text, end = reply(
        engine, ask(1, sampling=SAMPLED, num_predict=100, num_ctx=16, num_keep=2, grammar=LONG)
    )

    assert (len(text), text.isalpha(), end.reason) == (60, True, "stop")


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (schema('{"type": "objec"}'), "Invalid type: objec"),
        (schema('{"type":'), "EOF while parsing"),
        (schema("[1]"), "Expecting object schema"),
        (schema('{"a":' * 500 + "1" + "}" * 500), "recursion limit exceeded"),
        (schema('{"$ref": "#"}'), "the format cannot be used: nothing matches it"),
        (schema('{"$ref": "https://example.com/x"}'), "cannot be used"),
        (schema('{"type": "string", "pattern": "(?=a)b"}'), "regex parse error"),
        (schema('{"enum": []}'), "Unsatisfiable schema"),
        (lark("start: nothing"), "unknown name"),
        (lark(""), "Empty grammar"),
        (schema(json.dumps({"enum": ["x" * MAX_SOURCE_BYTES]})), "longer than 128 KiB"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_with_the_reason(
    grammars: Grammars, grammar: Grammar, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        grammars.constrain(grammar)


def test_a_tokenizer_that_cannot_be_read_as_bytes_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))

    with pytest.raises(BadInput, match="tokenizer cannot follow a format"):
        Grammars(tokenizer, 2, {1}, TokenBytes(tokenizer)).constrain(schema("{}"))


def test_a_grammar_is_compiled_once_and_only_so_many_are_kept(grammars: Grammars) -> None:
    for number in range(MAX_COMPILED + 5):
        grammars.constrain(lark(f'start: "{number}"'))
    kept = dict(grammars._compiled)

    grammars.constrain(lark(f'start: "{MAX_COMPILED}"'))

    assert len(kept) == MAX_COMPILED
    assert set(map(id, grammars._compiled.values())) == set(map(id, kept.values()))


def test_replies_to_one_schema_each_have_their_own_place(engine: Engine) -> None:
    for number in range(3):
        add(engine, ask(number, sampling=SAMPLED, num_predict=200, grammar=schema(PERSON)))
        engine.step()
    found = drain(engine)

    assert all(finished(found[number]).reason == "stop" for number in found)


def test_a_prompt_alone_needs_no_way_on(engine: Engine) -> None:
    assert finished(answers(engine, ask(1, num_predict=0, grammar=LONG))).reason == "length"
