"""Who asks: an id for each request, and a name for each client.

The id is the client's own if that is fit for a log, and goes into the reply and into every line
of the log. A client is told from others by its key, or else by its address.
"""

from __future__ import annotations

import re
import secrets

from aiohttp import web

from olla.caller import CALLER, Caller
from olla.server.origins import Handler

REQUEST_ID = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@web.middleware
async def name_caller(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware."""
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if _SANE.fullmatch(given) else secrets.token_hex(12)
    CALLER.set(Caller(request_id, request.remote or ""))
    return await handler(request)


async def send_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """The hook before any reply's headers are sent, streams' too."""
    response.headers[REQUEST_ID] = CALLER.get().request_id
