"""Keeps the bodies of requests for replies, for those who look for a fault.

OLLA_DEBUG_LOG_REQUESTS turns it on. They lie in a new temporary folder that is the owner's alone,
each with a script that sends it again.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import tempfile
from pathlib import Path

from aiohttp import hdrs, web

from olla.caller import CALLER
from olla.keys import Scope
from olla.server.access import scope_of
from olla.server.origins import Handler
from olla.server.streaming import read_body

_log = logging.getLogger(__name__)


class Recorder:
    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="olla-requests-"))  # mode 0700
        self._count = 0
        _log.warning("keeping the bodies of requests in %s", self._folder)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and scope_of(request.path) is Scope.INFER:
            body = await read_body(request)
            self._count += 1
            await asyncio.to_thread(self._keep, f"{self._count:06d}", request, body)
        return await handler(request)

    def _keep(self, number: str, request: web.Request, body: bytes) -> None:
        file = self._folder / f"{number}-{CALLER.get().request_id}.json"
        file.write_bytes(body)
        url = shlex.quote(str(request.url))
        script = file.with_suffix(".sh")
        packed = request.headers.get(hdrs.CONTENT_ENCODING, "")
        encoding = f"-H {shlex.quote(f'Content-Encoding: {packed}')} " if packed else ""
        script.write_text(
            "#!/bin/sh\n"
            f'exec curl -N "$@" {url} -H "Content-Type: application/json" {encoding}'
            f"--data-binary @{shlex.quote(str(file))}\n",
            encoding="utf-8",
        )
