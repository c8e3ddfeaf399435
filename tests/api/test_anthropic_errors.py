"""Anthropic's envelope of an error."""

from __future__ import annotations

import json
import re

import pytest

from olla.api.anthropic_errors import error_to_event, error_to_json
from olla.errors import OllaError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "api_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (529, "overloaded_error"),
    ],
)
def test_the_type_goes_by_the_status(status: int, kind: str) -> None:
    reply = error_to_json(OllaError("no"), status)

    assert re.fullmatch("req_[0-9a-f]{24}", reply.pop("request_id"))
    assert reply == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_no_two_errors_have_one_request_id() -> None:
    ids = {error_to_json(OllaError("no"), 500)["request_id"] for _ in range(20)}

    assert len(ids) == 20


def test_in_a_stream_it_is_an_event_of_that_name() -> None:
    name, _, data = error_to_event(OllaError("no"), 500).partition(b"\n")

    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["message"] == "no"
