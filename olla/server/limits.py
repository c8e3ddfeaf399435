"""How long a reply may take, where the settings bound that."""

from __future__ import annotations

import asyncio
import math

from aiohttp import web

from olla.errors import RequestTimeout
from olla.keys import Scope
from olla.server.access import scope_of
from olla.server.origins import Handler


class TimeGuard:
    """Ends replies that take too long. Transfers take as long as they take."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if math.isinf(self._limit_s) or scope_of(request.path) is not Scope.INFER:
            return await handler(request)
        timeout = asyncio.timeout(self._limit_s)
        try:
            async with timeout:
                return await handler(request)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise RequestTimeout(
                f"the reply took longer than {self._limit_s:g} seconds; see OLLA_REQUEST_TIMEOUT"
            ) from error
