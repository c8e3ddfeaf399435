"""The log: one line of key=value on stderr for each event, in the daemon and in its runners.

Prompts and replies never come here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime

_PLAIN = re.compile(r"[^\s\"=]+")


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


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
