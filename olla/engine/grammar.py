"""Constraints on replies, over llguidance: which tokens a grammar allows next.

Knows token ids and masks; nothing of logits. A grammar is compiled once and kept; each reply gets
a copy of its beginning, which costs next to nothing, and moves it along token by token.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as Rows

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from olla.engine.lark import Vocabulary, lark_of
from olla.errors import BadInput, NoTokenAllowed
from olla.runner.protocol import Grammar

MAX_COMPILED = 64

_END = "<|end of reply|>"
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")

# A cached grammar's lexer is shared by all replies and grows by what they meet: 1-2 kB a state.
# The sizes bound the time as well: nothing that they let pass takes seconds.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_grammar_size=200_000,
    max_lexer_states=100_000,
    verbose_errors=False,
)

_log = logging.getLogger(__name__)


class Constraint:
    """What one reply has to match, and how far it is."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether the reply matches and nothing can be added to it."""
        return bool(self._matcher.is_stopped())

    def mask(self, num_tokens: int) -> NDArray[np.uint8]:
        """A bit for each token that may come next, eight to a byte, lowest first.

        End tokens may come where the reply may end.

        Raises:
            NoTokenAllowed: there is none.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8, -(-num_tokens // 8))
        if self._matcher.is_error() or not mask.any():
            raise NoTokenAllowed(_reason(self._matcher))
        return mask

    def num_allowed(self, tokens: Rows[int]) -> int:
        """How many of `tokens`, one after the other from here on, match."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def copy(self) -> Constraint:
        """One that is as far, and goes on by itself."""
        return Constraint(self._matcher.deep_copy())

    def accept(self, token: int) -> None:
        """Go on by a token of the reply.

        Raises:
            NoTokenAllowed: it does not match.
        """
        if not self._matcher.consume_token(token):
            raise NoTokenAllowed(_reason(self._matcher))


class Grammars:
    """Compiles grammars for one model's vocabulary. For one thread, not the one that steps."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = [n for n in sorted(end_ids) if n >= 0 and tokenizer.id_to_token(n)]
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def constrain(self, grammar: Grammar) -> Constraint | None:
        """A constraint at its beginning; None for an optional grammar that cannot be used.

        Raises:
            BadInput: the grammar is too large, makes no sense, or nothing can match it.
        """
        try:
            return Constraint(self._matcher(grammar).deep_copy())
        except BadInput as error:
            if not grammar.is_optional:
                raise
            _log.info("the reply is not constrained reason=%r", str(error))
            return None

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        self._vocabulary = self._vocabulary or self._read_vocabulary()
        if grammar not in self._compiled:
            self._compiled[grammar] = _compile(grammar, self._vocabulary)
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return self._compiled[grammar]

    def _read_vocabulary(self) -> Vocabulary:
        """llguidance's view of the vocabulary; takes about a second."""
        tokenizer, ends = self._tokenizer, self._end_ids
        if not ends:
            # It insists on one: a token of our own, which a complete reply ends with like any.
            tokenizer = Tokenizer.from_str(tokenizer.to_str())
            tokenizer.add_special_tokens([_END])
            ends = [tokenizer.get_vocab()[_END]]
        size = max(self._vocab_size, 1 + max(tokenizer.get_vocab().values()))
        try:
            wrapped = LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends)
        except ValueError as error:
            raise BadInput(f"this model's tokenizer cannot follow a format: {error}") from error
        return Vocabulary(tokenizer, wrapped, frozenset(ends))


def _compile(grammar: Grammar, vocabulary: Vocabulary) -> LLMatcher:
    """
    Raises:
        BadInput: it cannot be compiled; by name the schema that cannot, if it is one alone.
    """
    matcher = _try(grammar, vocabulary)
    if not matcher.is_error():
        return matcher
    for schema in grammar.schemas:
        alone = _try(Grammar("start: schema_0", (schema,)), vocabulary)
        if alone.is_error():
            raise BadInput(f"{schema.name} cannot be used: {_reason(alone)}")
    names = " and ".join(schema.name for schema in grammar.schemas) or "the grammar"
    raise BadInput(f"{names} cannot be used: {_reason(matcher)}")


def _try(grammar: Grammar, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher, which may be one that only tells of an error."""
    source = LLMatcher.grammar_from_lark(lark_of(grammar, vocabulary))
    matcher = LLMatcher(vocabulary.wrapped, source, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        # Some errors, such as a schema that refers to nothing but itself, show at the first mask.
        matcher.compute_bitmask()
    return matcher


def _reason(matcher: LLMatcher) -> str:
    """The first line of llguidance's reason; what follows is the state of its parser."""
    lines = str(matcher.get_error()).splitlines()
    reason = _PLACE.sub("", lines[0].strip()) if lines else ""
    return "nothing matches it" if reason.startswith("NoExtension") else reason
