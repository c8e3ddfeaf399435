"""TagScanner: tags in a stream that is cut anywhere.

Knows no format. What could be the start of a tag is held back until it is one or is not; every
character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from functools import lru_cache


class Tags:
    """Texts to look for together: the leftmost counts, and of those the longest."""

    def __init__(self, *tags: str) -> None:
        longest_first = sorted(tags, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._beginnings = frozenset(tag[:size] for tag in tags for size in range(1, len(tag)))
        self._longest = len(longest_first[0]) if tags else 0

    def find(self, text: str, start: int, *, is_whole: bool) -> tuple[int, int]:
        """Where the next tag begins and ends; the same place twice if it is not there (yet).

        That place is the end of the text, or before it where a tag may have begun; never when
        the text `is_whole`.
        """
        found = self._pattern.search(text, start)
        held = len(text) if is_whole else self._held(text, start)
        if found is not None and (found.start() < held):
            return found.start(), found.end()
        return held, held

    def _held(self, text: str, start: int) -> int:
        for place in range(max(start, len(text) - self._longest + 1), len(text)):
            if text[place:] in self._beginnings:
                return place
        return len(text)


@lru_cache(256)
def tags_of(*tags: str) -> Tags:
    return Tags(*tags)


class TagScanner:
    """`push` text, then call `next` until it finds no tag; the tags may change in between."""

    def __init__(self) -> None:
        self._text = ""
        self._place = 0
        self._is_whole = False

    def push(self, text: str) -> None:
        self._text = self._text[self._place :] + text
        self._place = 0

    def close(self) -> None:
        """There is no more text: nothing is held back any longer."""
        self._is_whole = True

    def next(self, tags: Tags) -> tuple[str, str]:
        """The text up to the next tag, and the tag; "" instead of a tag that is not there yet."""
        begin, end = tags.find(self._text, self._place, is_whole=self._is_whole)
        text, tag = self._text[self._place : begin], self._text[begin:end]
        self._place = end
        return text, tag
