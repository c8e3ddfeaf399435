"""AdapterTable: which adapters lie over the model now, by number.

An adapter is read when the first request for it comes and stays until others push it out; one
that a sequence is using is never pushed out.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from olla.engine.models.batch import CausalModel
from olla.engine.weights.lora import read_lora
from olla.errors import FormatError

MAX_ADAPTERS = 64
NO_ADAPTER = 0

# What a missing file, a rank of 0, or a config of the wrong types and patterns comes to.
_BROKEN = (OSError, ArithmeticError, ValueError, TypeError, AttributeError, re.error)

Files = Mapping[str, str]
_Key = tuple[tuple[tuple[str, str], ...], ...]


class AdapterTable:
    def __init__(self, model: CausalModel, max_adapters: int = MAX_ADAPTERS) -> None:
        self._model = model
        self._max_adapters = max_adapters
        self._numbers: OrderedDict[_Key, int] = OrderedDict()
        self._next_number = NO_ADAPTER + 1

    def number(self, adapters: Sequence[Files], in_use: Collection[int]) -> int:
        """The number under which the sum of `adapters` is loaded, loading it now if need be.

        Raises:
            FormatError: an adapter is broken or does not fit the model; nothing is changed.
        """
        if not adapters:
            return NO_ADAPTER
        key = tuple(tuple(sorted(files.items())) for files in adapters)
        if key not in self._numbers:
            self._make_room(in_use)
            self._numbers[key] = self._load(adapters)
        self._numbers.move_to_end(key)
        return self._numbers[key]

    def _load(self, adapters: Sequence[Files]) -> int:
        number = self._next_number
        self._next_number += 1
        try:
            for files in adapters:
                for pair in read_lora({name: Path(path) for name, path in files.items()}):
                    self._model.add_adapter(number, *pair)
        except FormatError:
            self._model.remove_adapter(number)
            raise
        except _BROKEN as error:
            self._model.remove_adapter(number)
            raise FormatError(f"the adapter cannot be read: {error}") from error
        return number

    def _make_room(self, in_use: Collection[int]) -> None:
        idle = [key for key, number in self._numbers.items() if number not in in_use]
        for key in idle[: max(len(self._numbers) - self._max_adapters + 1, 0)]:
            self._model.remove_adapter(self._numbers.pop(key))
