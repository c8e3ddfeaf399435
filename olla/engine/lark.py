"""lark_of(): a Grammar's whole source, with the rules for its tags and schemas.

Knows which of a model's tokens are special: text never matches those, so a tag that is one is
written by its number, and free text names the others that may stand in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import count, groupby

from llguidance import LLTokenizer
from tokenizers import Tokenizer

from olla.runner.protocol import Grammar

WHITESPACE = r" |\n[ \t]{0,40}"
"""What may stand between the parts of JSON: bounded, since small models get lost in whitespace."""


class Vocabulary:
    """A model's tokens, as llguidance sees them. `end_ids` end a reply and are no part of it."""

    def __init__(
        self, tokenizer: Tokenizer, wrapped: LLTokenizer, end_ids: Collection[int]
    ) -> None:
        self.wrapped = wrapped
        added = tokenizer.get_added_tokens_decoder()
        self._special = {
            token.content: number
            for number, token in added.items()
            if number not in end_ids and wrapped.is_special_token(number)
        }

    def special(self, text: str) -> int | None:
        """The special token with this text; None if it is none."""
        return self._special.get(text)

    def other_specials(self, tag: str) -> list[int]:
        return sorted(number for text, number in self._special.items() if text != tag)


def lark_of(grammar: Grammar, vocabulary: Vocabulary) -> str:
    lines = [grammar.source]
    for place, schema in enumerate(grammar.schemas):
        lines.append(f"schema_{place}: %json {_with_whitespace(schema.source)}")
    for place, tag in enumerate(grammar.tags):
        lines += _tag_rules(place, tag, vocabulary)
    if grammar.tags:
        lines.append("ANY: /(?s:.*)/")
    return "\n".join(lines)


def _with_whitespace(source: str) -> str:
    """As the last word, since a schema could ask for other whitespace in "x-guidance"."""
    schema = json.loads(source)
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})


def _tag_rules(place: int, tag: str, vocabulary: Vocabulary) -> Iterator[str]:
    """See `protocol.Grammar` for what the rules mean."""
    number, others = vocabulary.special(tag), vocabulary.other_specials(tag)
    yield f"text_{place}: (TEXT_{place} special_{place})*" if others else f'text_{place}: ""'
    if others:
        yield f"special_{place}: <[{_ranges(others)}]>"
    yield f"without_{place}: text_{place} TEXT_{place}"
    if number is not None:
        yield f"TEXT_{place}: ANY"
        yield f"tag_{place}: <[{number}]>"
        yield f"upto_{place}: without_{place} tag_{place}"
    else:
        text = json.dumps(tag)
        yield f"TEXT_{place}: ANY & ~(ANY {text} ANY)"
        yield f"tag_{place}: {text}"
        yield f"first_{place}[suffix={text}]: ANY"
        yield f"upto_{place}: text_{place} first_{place}"


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers as "1-3,7"."""
    places = count()
    runs = [list(run) for _, run in groupby(numbers, lambda number: number - next(places))]
    return ",".join(f"{run[0]}-{run[-1]}" for run in runs)
