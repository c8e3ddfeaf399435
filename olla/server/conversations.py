"""Conversations: the responses that later requests may go on from, in memory.

Knows neither HTTP nor what is in them: a response and the items of its conversation are JSON, kept
as bytes, so that their size is known. Invariant: there are never more than `max_count` of them nor
`max_bytes` in them; the one that was used least recently goes first. Threads may share it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olla.api.ollama_replies import encode
from olla.errors import BadInput, NotFound

Json = dict[str, Any]

MAX_COUNT = 1000
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Kept:
    response: bytes
    items: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.items)


class Conversations:
    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def put(self, response: Json, items: Sequence[Json]) -> None:
        """`items`: the conversation up to and with the response's output. May block.

        One that is larger than all there is room for is not kept.
        """
        kept = _Kept(encode(response), encode(items))
        with self._lock:
            self._drop(response["id"])
            if kept.num_bytes > self._max_bytes:
                return
            self._kept[response["id"]] = kept
            self._num_bytes += kept.num_bytes
            while len(self._kept) > self._max_count or self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def items(self, response_id: str) -> Sequence[Json]:
        """
        Raises:
            BadInput: it is not kept, or no longer.
        """
        kept = self._use(response_id)
        if kept is None:
            raise BadInput(
                f"previous response '{response_id}' not found: it was not stored, or has made room "
                "for later ones; send the whole conversation instead"
            )
        items: list[Json] = json.loads(kept.items)
        return items

    def response(self, response_id: str) -> bytes:
        """Its JSON. Raises NotFound."""
        kept = self._use(response_id)
        if kept is None:
            raise _not_found(response_id)
        return kept.response

    def delete(self, response_id: str) -> None:
        """
        Raises:
            NotFound: it is not kept, or no longer.
        """
        with self._lock:
            if response_id not in self._kept:
                raise _not_found(response_id)
            self._drop(response_id)

    def _use(self, response_id: str) -> _Kept | None:
        with self._lock:
            if response_id in self._kept:
                self._kept.move_to_end(response_id)
            return self._kept.get(response_id)

    def _drop(self, response_id: str) -> None:
        kept = self._kept.pop(response_id, None)
        if kept is not None:
            self._num_bytes -= kept.num_bytes


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"response '{response_id}' not found")
