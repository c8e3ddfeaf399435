"""The daemon's log: one line of key=value on stderr for each event.

Prompts and replies never come here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from datetime import datetime

from aiohttp import web

from olla.server.origins import Handler

_PLAIN = re.compile(r"[^\s\"=]+")
_log = logging.getLogger(__name__)


class KeyValueFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        fields = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "source": record.name,
            "msg": record.getMessage(),
        }
        line = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        if record.exc_info and record.exc_info[1]:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


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


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
