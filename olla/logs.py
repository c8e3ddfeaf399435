"""The log on stderr, in the daemon and in its runners: one line for each event.

A line is text of key=value, or a JSON object. It names the request that it is about, if it is
about one. Prompts and replies never come here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime

from olla.caller import CALLER

_PLAIN = re.compile(r"[^\s\"=]+")


class KeyValueFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record))
        if record.exc_info and record.exc_info[1]:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = dict(_fields(record))
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(*, debug: bool, log: str) -> None:
    """`log` is "json", or "text" for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log == "json" else KeyValueFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    moment = datetime.fromtimestamp(record.created).astimezone()
    yield "time", moment.isoformat(timespec="milliseconds")
    yield "level", record.levelname
    yield "source", record.name
    if CALLER.get().request_id:
        yield "request_id", CALLER.get().request_id
    yield "msg", record.getMessage()


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
