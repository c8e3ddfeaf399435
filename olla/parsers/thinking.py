"""ThinkingParser: what a model thinks, between two tags, and the content around it.

Knows nothing about calls. By default there is one block, at the start of the reply; after it, and
where the reply begins otherwise, all is content (spec/modelfile.md sections 6 and 10.3).
Whitespace around what was thought is dropped, and so is that before the content that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from olla.parsers.base import Delta, Trimmer
from olla.parsers.tags import Tags, TagScanner, tags_of


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """`is_anywhere`: there may be several blocks, also behind content.

    `ended_by`: tags of what follows, which end the thinking too; they stay in the content.
    """

    opening: str
    closing: str
    is_anywhere: bool = False
    ended_by: tuple[str, ...] = ()

    @property
    def opening_token(self) -> str:
        """The part of the opening tag that may be a token: of "<|channel>thought", the first."""
        return self.opening[: self.opening.find(">") + 1] or self.opening

    @property
    def opening_rest(self) -> str:
        return self.opening.removeprefix(self.opening_token)


class _Place(Enum):
    START = auto()
    THINKING = auto()
    CONTENT = auto()


class ThinkingParser:
    def __init__(self, tags: ThinkingTags, *, starts_inside: bool = False) -> None:
        """`starts_inside`: the prompt ended with the opening tag."""
        self._tags = tags
        self._place = _Place.THINKING if starts_inside else _Place.START
        self._start = Trimmer(keeps_start=True)
        self._thought = Trimmer()
        self._drops_blank = False
        self._scanner = TagScanner()

    def push(self, text: str) -> Delta:
        self._scanner.push(text)
        return Delta.join(self._advance())

    def finish(self) -> Delta:
        self._scanner.close()
        rest = Delta.join(self._advance())
        return rest + Delta(thinking=self._thought.end(), content=self._start.end())

    def _advance(self) -> Iterator[Delta]:
        is_at_tag = True
        while is_at_tag:
            text, tag = self._scanner.next(self._wanted())
            is_at_tag = bool(tag)
            yield self._take(text)
            yield self._switch(tag)

    def _wanted(self) -> Tags:
        if self._place is _Place.THINKING:
            return tags_of(self._tags.opening, self._tags.closing, *self._tags.ended_by)
        if self._place is _Place.START or self._tags.is_anywhere:
            return tags_of(self._tags.opening)
        return tags_of()

    def _take(self, text: str) -> Delta:
        if self._place is _Place.THINKING:
            return Delta(thinking=self._thought.push(text))
        if self._place is _Place.START:
            return self._take_start(text)
        if self._drops_blank:
            text = text.lstrip()
            self._drops_blank = not text
        return Delta(content=text)

    def _take_start(self, text: str) -> Delta:
        shown = self._start.push(text)
        if not shown:
            return Delta()
        self._place = _Place.CONTENT
        return Delta(content=shown + self._start.end())

    def _switch(self, tag: str) -> Delta:
        if not tag:
            return Delta()
        if self._place is _Place.THINKING:
            return self._leave(tag)
        if self._place is _Place.CONTENT and not self._tags.is_anywhere:
            return Delta(content=tag)  # looked for at the start, and found behind content
        self._place = _Place.THINKING
        self._start.end()
        return Delta()

    def _leave(self, tag: str) -> Delta:
        if tag == self._tags.opening:
            # Some models repeat the tag that the prompt ended with.
            return Delta(thinking=self._thought.push(tag) if self._thought.has_begun else "")
        self._thought = Trimmer()
        self._place = _Place.CONTENT
        self._drops_blank = tag == self._tags.closing
        return Delta(content="" if self._drops_blank else tag)
