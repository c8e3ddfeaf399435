"""Constraints on replies, over llguidance: which tokens a schema or grammar allows next.

Knows token ids, bytes and masks; nothing of logits. A grammar is compiled once and kept; each
reply gets a copy of its beginning, which costs next to nothing, and moves it along token by token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from olla.engine.token_bytes import TokenBytes
from olla.errors import BadInput, NoTokenAllowed
from olla.runner.protocol import Grammar, GrammarKind

MAX_SOURCE_BYTES = 128 * 1024
MAX_COMPILED = 64
WHITESPACE = r" |\n[ \t]{0,40}"
"""What may stand between the parts of JSON: bounded, since small models get lost in whitespace."""

_END = "<|end of reply|>"

# A cached grammar's lexer is shared by all replies and grows by what they meet: 1-2 kB a state.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_grammar_size=200_000,
    max_lexer_states=100_000,
    verbose_errors=False,
)


class Constraint:
    """What one reply has to match, and how far it is.

    It begins behind the text `after`. A token that holds the end of that text and more is allowed,
    as nothing is constrained yet; the rest of it, without leading whitespace, must begin a match.
    """

    def __init__(
        self, matcher: LLMatcher, tokenizer: LLTokenizer, after: bytes, token_bytes: TokenBytes
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._token_bytes = token_bytes
        self._after = after
        self._tail = b""
        self.is_active = not after

    @property
    def is_complete(self) -> bool:
        """Whether the reply matches and nothing can be added to it."""
        return self.is_active and bool(self._matcher.is_stopped())

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

    def accept(self, token: int) -> None:
        """Go on by a token of the reply.

        Raises:
            NoTokenAllowed: it does not match.
        """
        if self.is_active:
            self._consume([token])
        else:
            self._look_for_start(token)

    def _look_for_start(self, token: int) -> None:
        self._tail += self._token_bytes(token)
        _, found, rest = self._tail.partition(self._after)
        if not found:
            self._tail = self._tail[-len(self._after) :]
            return
        self.is_active, self._tail = True, b""
        self._consume(self._tokenizer.tokenize_bytes(rest.lstrip()))

    def _consume(self, tokens: list[int]) -> None:
        if not self._matcher.consume_tokens(tokens):
            raise NoTokenAllowed(_reason(self._matcher))


class Grammars:
    """Compiles grammars for one model's vocabulary. For one thread, not the one that steps."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        end_ids: Collection[int],
        token_bytes: TokenBytes,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = [n for n in sorted(end_ids) if n >= 0 and tokenizer.id_to_token(n)]
        self._token_bytes = token_bytes
        self._wrapped: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[GrammarKind, str], LLMatcher] = OrderedDict()

    def constrain(self, grammar: Grammar) -> Constraint:
        """A constraint at its beginning.

        Raises:
            BadInput: the grammar is too large, makes no sense, or nothing can match it.
        """
        if len(grammar.source) > MAX_SOURCE_BYTES:
            limit = f"{MAX_SOURCE_BYTES // 1024} KiB"
            raise BadInput(f"{_name(grammar)} must not be longer than {limit}")
        tokenizer = self._wrapped = self._wrapped or self._wrap()
        key = (grammar.kind, grammar.source)
        if key not in self._compiled:
            self._compiled[key] = _compile(grammar, tokenizer)
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        matcher = self._compiled[key].deep_copy()
        return Constraint(matcher, tokenizer, grammar.after.encode(), self._token_bytes)

    def _wrap(self) -> LLTokenizer:
        """llguidance's view of the vocabulary; takes about a second."""
        tokenizer, ends = self._tokenizer, self._end_ids
        if not ends:
            # It insists on one: a token of our own, which a complete reply ends with like any.
            tokenizer = Tokenizer.from_str(tokenizer.to_str())
            tokenizer.add_special_tokens([_END])
            ends = [tokenizer.get_vocab()[_END]]
        size = max(self._vocab_size, 1 + max(tokenizer.get_vocab().values()))
        try:
            return LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends)
        except ValueError as error:
            raise BadInput(f"this model's tokenizer cannot follow a format: {error}") from error


def _compile(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        matcher = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=_LIMITS)
    except ValueError as error:
        raise BadInput(f"{_name(grammar)} cannot be used: {error}") from error
    if not matcher.is_error():
        # Some errors, such as a schema that refers to nothing but itself, show at the first mask.
        matcher.compute_bitmask()
    if matcher.is_error():
        raise BadInput(f"{_name(grammar)} cannot be used: {_reason(matcher)}")
    return matcher


def _name(grammar: Grammar) -> str:
    """What the client sent that became this grammar."""
    return "the schemas of the tools" if grammar.kind is GrammarKind.LARK else "the format"


def _source(grammar: Grammar) -> str:
    if grammar.kind is GrammarKind.LARK:
        return str(LLMatcher.grammar_from_lark(grammar.source))
    # As overrides, since a schema could ask for other whitespace in "x-guidance".
    overrides = {"whitespace_pattern": WHITESPACE}
    return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=overrides))


def _reason(matcher: LLMatcher) -> str:
    """The first line of llguidance's reason; what follows is the state of its parser."""
    lines = str(matcher.get_error()).splitlines()
    reason = lines[0].strip() if lines else ""
    return "nothing matches it" if reason.startswith("NoExtension") else reason
