"""What both halves of the parser share: the tokens still to come, and the variables in sight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from olla.errors import TemplateError
from olla.gotemplate.lexer import Kind, Token, error_at, tokenize

MAX_DEPTH = 40
MAX_VARIABLES = 200


class Stream:
    """The tokens of a text. Invariant: nobody holds more than MAX_DEPTH `nested` at once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(tokenize(text))
        self._place = 0
        self._depth = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._place]

    def peek(self, distance: int) -> Kind:
        place = min(self._place + distance, len(self._tokens) - 1)
        return self._tokens[place].kind

    def next(self) -> Token:
        token = self.token
        if token.kind is not Kind.END:
            self._place += 1
        return token

    def take(self, kind: Kind) -> Token | None:
        return self.next() if self.token.kind is kind else None

    def expect(self, kind: Kind, where: str) -> Token:
        if self.token.kind is not kind:
            raise self.unexpected(where)
        return self.next()

    def error(self, what: str, offset: int | None = None) -> TemplateError:
        return error_at(self._text, self.token.offset if offset is None else offset, what)

    def unexpected(self, where: str) -> TemplateError:
        is_end = self.token.kind is Kind.END
        what = "end of the template" if is_end else repr(self.token.text.strip())
        return self.error(f"unexpected {what} in {where}")

    @contextmanager
    def nested(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.error(f"blocks and parentheses are nested more than {MAX_DEPTH} deep")
        yield
        self._depth -= 1


class Scope:
    """The variables of one template. A variable's slot is its place among those in sight."""

    def __init__(self) -> None:
        self._names = ["$"]
        self.num_slots = 1

    def find(self, name: str) -> int | None:
        for slot in range(len(self._names) - 1, -1, -1):
            if self._names[slot] == name:
                return slot
        return None

    def declare(self, name: str) -> int:
        self._names.append(name)
        self.num_slots = max(self.num_slots, len(self._names))
        return len(self._names) - 1

    @property
    def is_full(self) -> bool:
        return len(self._names) >= MAX_VARIABLES

    @contextmanager
    def block(self) -> Iterator[None]:
        """What is declared inside is gone afterwards."""
        num_names = len(self._names)
        yield
        del self._names[num_names:]
