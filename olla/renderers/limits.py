"""What a template may cost: processor time, the size of each value it makes, and of all together.

Knows nothing about Jinja's syntax; olla.renderers.sandbox calls it wherever a template makes a
value. Two things end a template. Time: another thread interrupts it, between two steps of Python
code. Size: no value may grow past MAX_SIZE, so no single step in C, which nothing interrupts,
takes long. Nested lists count as often as they are reached, as `str` writes them.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from jinja2.utils import Namespace

MAX_SECONDS = 1.0
MAX_SIZE = 8 * 2**20
MAX_TOTAL = 2**29
MAX_WIDTH = 1000
MAX_INT_BITS = 2**14
ELEMENT_SIZE = 16
REPEAT_SECONDS = 0.1

_NAMESPACE_VALUES = "_Namespace__attrs"  # all other attributes of a namespace are the template's
_LONG_NUMBER = re.compile(r"\d{4}")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")
_STAR_WIDTH = re.compile(r"%[^%a-zA-Z]*\*")
_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_T = TypeVar("_T")


class LimitReached(BaseException):
    """Not an Exception, so that nothing on the way up can take it for an ordinary failure."""

    def __init__(self, text: str = f"it took longer than {MAX_SECONDS:g} s") -> None:
        super().__init__(text)


class Limits:
    """The account of one render."""

    def __init__(self) -> None:
        self._clock = _thread_clock()
        self._deadline = self._clock() + MAX_SECONDS
        self._spent = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise LimitReached in the code of this block when its time is over."""
        watcher = _Watcher(self._clock, self._deadline)
        watcher.start()
        try:
            yield
        finally:
            watcher.stop()

    def charge(self, value: _T) -> _T:
        """`value`, once it has been found small enough."""
        self._spent += measure(value)
        if self._spent > MAX_TOTAL:
            raise LimitReached("it makes too much text")
        if self._clock() > self._deadline:
            raise LimitReached
        return value


class _Watcher:
    """A thread that interrupts the one which made it, when its time is over and until it stops.

    Unlike a trace function this costs a render nothing. It says so again and again, since an
    exception that is raised inside a finalizer is lost. After `stop` none can come any more.
    """

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        """`clock` is the watched thread's, which must live: so it is read under the lock."""
        self._clock = clock
        self._deadline = deadline
        self._watched = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self._is_stopped = False
        self._wake = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="template-watcher", daemon=True).start()

    def stop(self) -> None:
        try:
            self._stop()
        except LimitReached:  # it came just now; the next is REPEAT_SECONDS away
            self._stop()
            raise

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            _set_async_exception(self._watched, None)
        self._wake.set()

    def _run(self) -> None:
        seconds = MAX_SECONDS
        while not self._wake.wait(seconds):
            with self._lock:
                if self._is_stopped:
                    return
                left = self._deadline - self._clock()
                if left <= 0:
                    _set_async_exception(self._watched, ctypes.py_object(LimitReached))
            seconds = max(left, REPEAT_SECONDS)


def _thread_clock() -> Callable[[], float]:
    """This thread's processor time in seconds, for any thread to ask while this one lives.

    On a busy machine a render is not charged for what others do. Where no thread can ask for
    another's time, as on macOS, it is the time that passes.
    """
    if hasattr(time, "pthread_getcpuclockid"):
        return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    return time.monotonic


def check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise LimitReached(f"it makes a value larger than {MAX_SIZE} characters")


def check_width(value: object) -> None:
    """For arguments that say how much to fill, or which characters to look for."""
    size = len(value) if isinstance(value, str | bytes) else value
    if isinstance(size, int) and size > MAX_WIDTH:
        raise LimitReached(f"an argument is larger than {MAX_WIDTH}")


def measure(value: object) -> int:
    """The size of a value with all it holds, in characters; one element counts ELEMENT_SIZE."""
    size = 0
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str | bytes):
            size += len(item)
        elif isinstance(item, int):
            _check_bits(item.bit_length())
        else:
            children = _children(item)
            size += ELEMENT_SIZE * len(children)
            check_size(size)
            pending.extend(children)
    check_size(size)
    return size


def _children(item: object) -> Collection[Any]:
    if isinstance(item, list | tuple):
        return item
    if isinstance(item, Namespace):
        item = getattr(item, _NAMESPACE_VALUES)
    if isinstance(item, Mapping):
        return [*item.keys(), *item.values()]
    if isinstance(item, Collection) and not isinstance(item, range):
        return item
    return ()


def check_format(template: str | bytes, arguments: object) -> None:
    """Foresee the size of `template % arguments` or `template.format(...)`."""
    if isinstance(template, bytes):
        raise LimitReached("bytes may not be formatted")
    for pattern in (_LONG_NUMBER, _NESTED_FIELD, _STAR_WIDTH):
        if pattern.search(template):
            raise LimitReached("a format has a width that is too large or not fixed")
    num_fields = template.count("%") + template.count("{")
    check_size(len(template) + num_fields * (measure(arguments) + MAX_WIDTH))


def check_operation(operator: str, left: object, right: object) -> None:
    """Foresee the size of what an operator makes, where it is not of the order of its operands."""
    if operator == "%" and isinstance(left, str | bytes):
        check_format(left, right)
    if operator == "*":
        _check_repeat(left, right)
        _check_repeat(right, left)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)


def check_indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> None:
    """Foresee the size of `text` with each line indented."""
    indention = len(width) if isinstance(width, str) else width
    check_size(len(text) + len(text.splitlines()) * indention)


def _check_repeat(value: object, times: object) -> None:
    if isinstance(times, int) and not isinstance(value, int | float):
        check_size(measure(value) * times)


def _check_bits(num_bits: int) -> None:
    if num_bits > MAX_INT_BITS:
        raise LimitReached("it makes a number that is too large")
