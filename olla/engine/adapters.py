"""AdapterTable: which adapters lie over the model now, by number.

An adapter is read when the first request for it comes and stays until others push it out; one
that a sequence is using is never pushed out. Reading may be done ahead, in another thread than
the one that steps. On a GPU, what is pushed out waits in the host's memory. What was deleted from
the store goes when the next request comes.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from olla.engine.models.batch import CausalModel, ModelConfig
from olla.engine.models.config import DecoderConfig
from olla.engine.parts import Part, num_bytes
from olla.engine.recent import Recent
from olla.engine.weights.gguf_lora import Heads, read_gguf_lora
from olla.engine.weights.lora import read_lora
from olla.errors import FormatError
from olla.runner.protocol import Adapter, Files

MAX_ADAPTERS = 64
MAX_WAITING_BYTES = 4 * 2**30
NO_ADAPTER = 0

# What a missing file, a rank of 0, or a config of the wrong types and patterns comes to.
_BROKEN = (OSError, ArithmeticError, ValueError, TypeError, AttributeError, re.error)

_FilesKey: TypeAlias = tuple[tuple[str, str], ...]
_Key: TypeAlias = tuple[tuple[_FilesKey, float], ...]


class AdapterTable:
    def __init__(
        self,
        model: CausalModel,
        max_adapters: int = MAX_ADAPTERS,
        *,
        keeps_read: bool = False,
        on_removed: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """Args:
        keeps_read: what is read also waits in the host's memory, after it was laid over.
        on_removed: told the number of an adapter that has been taken off the model.
        """
        self._model = model
        self._on_removed = on_removed
        self._max_adapters = max_adapters
        self._read = ReadAdapters(model.config, keeps_read=keeps_read)
        self._numbers: OrderedDict[_Key, int] = OrderedDict()
        self._next_number = NO_ADAPTER + 1

    def prepare(self, adapters: Sequence[Adapter]) -> None:
        """Read what `number` will need. For any thread.

        Raises:
            FormatError: an adapter is broken.
        """
        if _key_of(adapters) not in self._numbers:
            self._read.prepare(adapters)

    def number(self, adapters: Sequence[Adapter], in_use: Collection[int]) -> int:
        """The number under which the sum of `adapters` is loaded, loading it now if need be.

        Raises:
            FormatError: an adapter is broken or does not fit the model; nothing is changed.
        """
        number = self._loaded(adapters, in_use) if adapters else NO_ADAPTER
        self._take_off_deleted({*in_use, number})
        return number

    def _loaded(self, adapters: Sequence[Adapter], in_use: Collection[int]) -> int:
        key = _key_of(adapters)
        if key not in self._numbers:
            parts = [part for adapter in adapters for part in self._read.take(adapter)]
            self._make_room(in_use)
            self._numbers[key] = self._lay_over(parts)
        self._numbers.move_to_end(key)
        return self._numbers[key]

    def _lay_over(self, parts: Sequence[Part]) -> int:
        number = self._next_number
        self._next_number += 1
        try:
            self._model.add_adapter(number, parts)
        except FormatError:
            self._model.remove_adapter(number)
            raise
        return number

    def _make_room(self, in_use: Collection[int]) -> None:
        idle = [key for key, number in self._numbers.items() if number not in in_use]
        for key in idle[: max(len(self._numbers) - self._max_adapters + 1, 0)]:
            self._take_off(key)

    def _take_off_deleted(self, in_use: Collection[int]) -> None:
        """What is deleted from the store is not asked for again, so its memory is given back."""
        self._read.forget_deleted()
        for key, number in list(self._numbers.items()):
            if number not in in_use and not all(_exists(files) for files, _ in key):
                self._take_off(key)

    def _take_off(self, key: _Key) -> None:
        number = self._numbers.pop(key)
        self._model.remove_adapter(number)
        self._on_removed(number)


class ReadAdapters:
    """Adapters that have been read and wait to be laid over the model."""

    def __init__(self, config: ModelConfig, *, keeps_read: bool) -> None:
        self._heads = _heads(config)
        self._keeps_read = keeps_read
        self._waiting: Recent[_FilesKey, list[Part]] = Recent(MAX_WAITING_BYTES)
        self._lock = threading.Lock()

    def prepare(self, adapters: Iterable[Adapter]) -> None:
        for adapter in adapters:
            if _files_key(adapter.files) not in self._waiting:
                self._keep(adapter, read_adapter(adapter.files, self._heads))

    def take(self, adapter: Adapter) -> list[Part]:
        """Its parts, to its scale."""
        key = _files_key(adapter.files)
        with self._lock:
            parts = self._waiting.get(key) if self._keeps_read else self._waiting.pop(key)
        if parts is None:
            parts = read_adapter(adapter.files, self._heads)
            if self._keeps_read:
                self._keep(adapter, parts)
        return [replace(part, share=adapter.scale) for part in parts]

    def forget_deleted(self) -> None:
        with self._lock:
            for key in [key for key in self._waiting if not _exists(key)]:
                self._waiting.pop(key)

    def _keep(self, adapter: Adapter, parts: list[Part]) -> None:
        key = _files_key(adapter.files)
        with self._lock:
            self._waiting.pop(key)
            self._waiting.put(key, parts, sum(num_bytes(part) for part in parts))


def read_adapter(files: Files, heads: Heads | None) -> list[Part]:
    """The parts of an adapter, as peft saves it or in GGUF.

    Raises:
        FormatError: it is broken.
    """
    paths = {name: Path(path) for name, path in files.items()}
    gguf = [path for name, path in paths.items() if name.endswith(".gguf")]
    try:
        return read_gguf_lora(gguf[0], heads) if gguf else read_lora(paths)
    except FormatError:
        raise
    except _BROKEN as error:
        raise FormatError(f"the adapter cannot be read: {error}") from error


def _heads(config: ModelConfig) -> Heads | None:
    if not isinstance(config, DecoderConfig):
        return None
    return Heads(config.num_heads, config.num_kv_heads)


def _key_of(adapters: Iterable[Adapter]) -> _Key:
    return tuple((_files_key(adapter.files), adapter.scale) for adapter in adapters)


def _exists(key: _FilesKey) -> bool:
    return all(Path(path).exists() for _, path in key)


def _files_key(files: Files) -> _FilesKey:
    return tuple(sorted(files.items()))
