"""Who wants to know what happens to runners, to count it; it is called and never waited for."""

from __future__ import annotations

from typing import Protocol

from olla.names import ModelName
from olla.runner.protocol import Stepped


class Observer(Protocol):
    def loaded(self, name: ModelName, seconds: float) -> None: ...

    def load_failed(self, name: ModelName) -> None: ...

    def stepped(self, name: ModelName, stepped: Stepped) -> None: ...


class Nobody:
    """The observer that looks away."""

    def loaded(self, name: ModelName, seconds: float) -> None:
        pass

    def load_failed(self, name: ModelName) -> None:
        pass

    def stepped(self, name: ModelName, stepped: Stepped) -> None:
        pass
