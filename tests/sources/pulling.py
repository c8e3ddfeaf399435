"""What a pull by name gives, for the tests of every hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from olla.registry.model import Model
from olla.requests import Progress

Pulled = Callable[[str], Awaitable[tuple[Model, list[Progress]]]]
