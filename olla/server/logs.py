"""A line in the log for each request."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from olla.server.origins import Handler

_log = logging.getLogger(__name__)


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.monotonic()
    status = 499  # of a client that left, as Ollama's log has it
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        took_ms = (time.monotonic() - started) * 1000
        _log.info(
            "method=%s path=%s status=%d took_ms=%.1f",
            request.method,
            request.path,
            status,
            took_ms,
        )
