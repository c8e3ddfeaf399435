"""Who is being served: known to whatever runs for one request, without being handed down.

The server sets it for each request; tasks and threads that a request starts inherit it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """`client` tells clients apart: the name of a key, or an address."""

    request_id: str = ""
    client: str = ""


CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - it is frozen
