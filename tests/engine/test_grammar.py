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
from olla.engine.grammar import MAX_COMPILED, Constraint, Grammars
from olla.engine.loading import LoadedModel
from olla.errors import BadInput
from olla.options import SamplingParams
from olla.runner.protocol import Failed, FailureKind, Grammar, Schema
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
    return Grammars(tiny.tokenizer, VOCAB_SIZE, {EOS})


def allowed(grammars: Grammars, grammar: Grammar, text: str = "") -> set[str]:
    """What may come after `text`, each as a token's text."""
    tokenizer = grammars._tokenizer
    constraint = started(grammars, grammar)
    for token in tokenizer.encode(text).ids:
        constraint.accept(token)
    tokens = next_tokens(constraint, VOCAB_SIZE)
    return {tokenizer.decode([token], skip_special_tokens=False) for token in tokens}


def started(grammars: Grammars, grammar: Grammar) -> Constraint:
    constraint = grammars.constrain(grammar)
    assert constraint is not None
    return constraint


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
    several = Grammars(tiny.tokenizer, VOCAB_SIZE, {EOS, 256})

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


def vocabulary_of(*texts: str) -> Tokenizer:
    """A byte-level vocabulary of these tokens and an end."""
    tokenizer = Tokenizer(models.BPE({text: place for place, text in enumerate(texts)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def letters_and(*special: str) -> Grammars:
    """A vocabulary of letters and signs, and of these special tokens."""
    tokenizer = vocabulary_of(*(chr(code) for code in range(33, 127)), "Ġ", "Ċ")
    tokenizer.add_special_tokens(list(special))
    size = tokenizer.get_vocab_size()
    return Grammars(tokenizer, size, [tokenizer.get_vocab()["<eos>"]])


TAGS = ("<a>", "<b>")
SPECIAL = [(), ("<a>",), ("<b>",), ("<a>", "<b>"), ("<a>", "<other>")]


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(
    ("source", "text", "fits"),
    [
        ("start: tag_0 tag_1", "<a><b>", True),
        ("start: tag_0 tag_1", "<b>", False),
        ('start: upto_0 "!"', "free <text<a>!", True),
        ('start: upto_0 "!"', "free <text<a>x", False),
        ('start: upto_0 "!"', "<b><a>!", True),
        ('start: upto_0 "!"', "<a><a>!", False),
        ("start: without_0", "any <b> text", True),
        ("start: without_0", "any <a>", False),
        ('start: (upto_0 "!")* without_0', "a<a>!b<b><a>!c<b>", True),
        ('start: (upto_0 "!")* without_0', "a<a>!b<b><a>c", False),
    ],
)
def test_tags_mean_the_same_whether_they_are_special_tokens_or_text(
    special: tuple[str, ...], source: str, text: str, fits: bool
) -> None:
    grammars = letters_and(*special)

    assert matches(grammars, lark(source, *TAGS), text) == fits


def matches(grammars: Grammars, grammar: Grammar, text: str) -> bool:
    """Whether the whole text may be a reply, or begin one."""
    tokenizer = grammars._tokenizer
    constraint = started(grammars, grammar)
    for token in tokenizer.encode(text).ids:
        if constraint.is_complete or token not in next_tokens(
            constraint, tokenizer.get_vocab_size()
        ):
            return False
        constraint.accept(token)
    return True


def test_any_special_token_may_stand_in_free_text_but_for_an_end() -> None:
    grammars = letters_and("<a>", "<other>")
    tokenizer = grammars._tokenizer

    constraint = started(grammars, lark('start: upto_0 "!"', "<a>"))

    tokens = next_tokens(constraint, tokenizer.get_vocab_size())
    assert {tokenizer.token_to_id("<other>"), tokenizer.token_to_id("<a>")} <= tokens
    assert tokenizer.token_to_id("<eos>") not in tokens


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


def test_a_reply_without_a_way_on_fails_alone(tiny: LoadedModel) -> None:
    """A vocabulary that lacks what the grammar wants leaves it none in the middle of a reply."""
    engine = Engine(dataclasses.replace(tiny, tokenizer=vocabulary_of("a", "x")))
    for number, wanted in enumerate([lark('start: "ab"'), None]):
        request = ask(number, "", grammar=wanted, num_predict=20, logit_bias={0: 100.0})
        engine.add(request, [0, 1], engine.constrain(request.grammar))

    messages = drain(engine)

    failed = messages[0][-1]
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.RUNNER
    assert failed.text.startswith("the model has no token with which the reply could go on")
    assert finished(messages[1]).num_tokens == 20
    assert engine.num_free_blocks == Engine(tiny).num_free_blocks


def test_a_reply_whose_grammar_is_optional_goes_on_freely(tiny: LoadedModel) -> None:
    engine = Engine(dataclasses.replace(tiny, tokenizer=vocabulary_of("a", "x")))
    optional = msgspec.structs.replace(lark('start: "ab"'), is_optional=True)
    request = ask(1, "", grammar=optional, num_predict=20, logit_bias={0: 100.0})
    engine.add(request, [0, 1], engine.constrain(optional))

    assert finished(drain(engine)[1]).num_tokens == 20


def test_an_optional_grammar_that_cannot_be_used_is_none(grammars: Grammars) -> None:
    optional = msgspec.structs.replace(lark("start: nothing"), is_optional=True)

    assert grammars.constrain(optional) is None


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
        (schema('{"$ref": "#"}'), "the format cannot be used: nothing matches it"),
        (schema('{"$ref": "https://example.com/x"}'), "cannot be used"),
        (schema('{"type": "string", "pattern": "(?=a)b"}'), "regex parse error"),
        (schema('{"enum": []}'), "Unsatisfiable schema"),
        (lark("start: nothing"), "unknown name"),
        (lark(""), "Empty grammar"),
        (
            Grammar("start: schema_0 | schema_1", (Schema("a", "{}"), Schema("b", '{"enum": []}'))),
            "b cannot be used: Unsatisfiable schema",
        ),
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
        Grammars(tokenizer, 2, {1}).constrain(schema("{}"))


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
