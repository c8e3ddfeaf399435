"""The log, in both of its forms."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from olla.caller import CALLER, Caller
from olla.logs import JsonFormatter, KeyValueFormatter


def record(text: str = "it is so x=1", error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("olla.x", logging.INFO, "f", 1, text, (), info)


@pytest.fixture(autouse=True)
def asked() -> None:
    CALLER.set(Caller("abc", "me"))


def test_a_line_of_text_names_the_request() -> None:
    line = KeyValueFormatter().format(record())

    assert line.startswith("time=")
    assert line.endswith('level=INFO source=olla.x request_id=abc msg="it is so x=1"')


def test_a_line_of_json_is_one_object_whatever_is_in_it() -> None:
    line = JsonFormatter().format(record('a "quote"\nand a line'))
    fields = json.loads(line)

    assert "\n" not in line
    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "source": "olla.x",
        "request_id": "abc",
        "msg": 'a "quote"\nand a line',
    }


def test_what_is_about_no_request_names_none() -> None:
    CALLER.set(Caller())

    assert "request_id" not in json.loads(JsonFormatter().format(record()))


@pytest.mark.parametrize("formatter", [JsonFormatter(), KeyValueFormatter()])
def test_a_traceback_comes_along(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        entry = record()
        entry.exc_info = sys.exc_info()

    assert "ValueError: broken" in formatter.format(entry)
