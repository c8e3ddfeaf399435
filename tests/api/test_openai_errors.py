"""OpenAI's envelope of an error."""

from __future__ import annotations

import json

import pytest

from olla import errors
from olla.api.openai_errors import error_to_event, error_to_json


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (401, "api_error"),
        (405, "api_error"),
        (413, "api_error"),
        (500, "api_error"),
        (503, "api_error"),
    ],
)
def test_the_type_goes_by_the_status(status: int, kind: str) -> None:
    assert error_to_json(errors.OllaError("no"), status) == {
        "error": {"message": "no", "type": kind, "param": None, "code": None}
    }


def test_a_prompt_that_is_too_long_has_a_code() -> None:
    reply = error_to_json(errors.PromptTooLong("too long"), 400)

    assert reply["error"]["code"] == "context_length_exceeded"


def test_in_a_stream_it_is_an_event() -> None:
    event = error_to_event(errors.OllaError("no"), 500)

    assert event.startswith(b"data: {") and event.endswith(b"}\n\n")
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "no"
