"""RequiredCall: the parser of a reply that has to be a call.

Whatever a model's own way of writing calls, a required one is written as one JSON object with a
`name` and `arguments`, since that is what a grammar can hold every model to.
"""

from __future__ import annotations

import json

from olla.parsers.base import Delta, new_call


class RequiredCall:
    """Reads the JSON of a required call; what breaks off in it is shown as content."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def push(self, text: str) -> Delta:
        self._pieces.append(text)
        return Delta()

    def finish(self) -> Delta:
        text = "".join(self._pieces)
        try:
            call = json.loads(text)
            found = new_call(call["name"], call["arguments"])
        except (ValueError, TypeError, KeyError):
            return Delta(content=text)
        return Delta(tool_calls=(found,))
