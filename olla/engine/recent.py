"""Recent: what was made last, as long as all of it together stays below a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._items: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def get(self, key: _Key) -> _Value | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def pop(self, key: _Key) -> _Value | None:
        """A value that is kept no longer."""
        if key not in self._items:
            return None
        value, num_bytes = self._items.pop(key)
        self._num_bytes -= num_bytes
        return value

    def put(self, key: _Key, value: _Value, num_bytes: int) -> None:
        """Keep a value that is not kept yet; the last one is kept however large it is."""
        self._items[key] = (value, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self._num_bytes -= freed
