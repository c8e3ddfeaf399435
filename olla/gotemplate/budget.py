"""What the execution of a template may cost, counted in steps, so that every run ends alike.

A step is about a microsecond or two. Whatever takes longer the larger its values are is charged by
their size; no value and no output may be larger than MAX_SIZE characters.
"""

from __future__ import annotations

from collections.abc import Iterable

from olla.errors import TemplateError

MAX_STEPS = 500_000
STEPS_PER_CALL = 4
STEPS_PER_MESSAGE = 200
MAX_SIZE = 8 * 2**20
READ_PER_STEP = 256
WRITTEN_PER_STEP = 8


class Budget:
    """The account of one rendering, which may execute a template more than once."""

    def __init__(self, num_messages: int = 0) -> None:
        """Long conversations may cost more."""
        self._max_steps = MAX_STEPS + STEPS_PER_MESSAGE * num_messages
        self._steps = self._max_steps
        self._size = 0

    def charge(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TemplateError(f"template error: it takes more than {self._max_steps} steps")

    def charge_call(self, values: Iterable[object]) -> None:
        """For a function, which looks at the elements of a list, but not inside them."""
        sizes = (len(value) for value in values if isinstance(value, str | list | tuple))
        self.charge(STEPS_PER_CALL + sum(sizes) // READ_PER_STEP)

    def charge_made(self, text: str) -> str:
        """`text`, once it has been found small enough."""
        _check_size(len(text))
        self.charge(len(text) // WRITTEN_PER_STEP)
        return text

    def charge_output(self, text: str) -> str:
        """`text`, once there is room for it in the output."""
        self._size += len(text)
        _check_size(self._size)
        self.charge(len(text) // READ_PER_STEP)
        return text


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateError(f"template error: it makes more than {MAX_SIZE} characters")
