"""Requests that ask for what cannot be, in each dialect's own envelope, with status and text."""

from __future__ import annotations

from typing import Any

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

HELLO = [{"role": "user", "content": "hi"}]
NATIVE = ("/api/chat", {"messages": HELLO})
OPENAI = ("/v1/chat/completions", {"messages": HELLO})
ANTHROPIC = ("/v1/messages", {"messages": HELLO, "max_tokens": 4})
RESPONSES = ("/v1/responses", {"input": "hi"})

DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(70):
    DEEP = {"type": "array", "items": DEEP}
BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "deep": (DEEP, "is nested more than 64 deep; flatten it"),
    "huge enum": ({"enum": [f"value {n}" for n in range(20_000)]}, "is longer than 128 KiB"),
    "wide": ({"properties": {f"p{n}": {} for n in range(2000)}}, "more than 1000 properties"),
    "multiples": ({"multipleOf": 9_999_999}, 'a "multipleOf" above 10000'),
    "anyOf": ({"allOf": [{"anyOf": [{"properties": {f"p{n}": {"const": m}}} for m in range(4)]}
               for n in range(10)]}, "schema too large"),
    "patterns": ({"type": "string", "allOf": [{"pattern": f"{chr(97 + n)}.{{{n + 9}}}"}
                  for n in range(20)]}, "Unable to determine if regex is empty"),
    "loop": ({"$ref": "#"}, "nothing matches it"),
    "definitions": ({"$defs": [1]}, "must be an object of schemas"),
    "type": ({"type": "nothing"}, "Invalid type: nothing"),
}  # fmt: skip


def error_of(daemon: Daemon, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """The status, and the text out of the dialect's envelope."""
    answer = daemon.ask("POST", path, {"model": MODEL, "stream": False, **body})
    if path.startswith("/api/"):
        return answer.status, answer.error
    return answer.status, str(answer.json["error"]["message"])


@pytest.mark.parametrize("name", BOMBS)
def test_a_schema_that_costs_too_much_is_refused_with_the_reason(
    daemon: Daemon, client: ollama.Client, name: str
) -> None:
    schema, reason = BOMBS[name]
    as_openai = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    as_anthropic = {"format": {"type": "json_schema", "schema": schema}}
    as_responses = {"format": {"type": "json_schema", "name": "a", "schema": schema}}

    for (path, body), fields in (
        (NATIVE, {"format": schema}),
        (OPENAI, {"response_format": as_openai}),
        (ANTHROPIC, {"output_config": as_anthropic}),
        (RESPONSES, {"text": as_responses}),
    ):
        status, text = error_of(daemon, path, body | fields)
        assert status == 400
        assert "the format" in text and reason in text, text


@pytest.mark.parametrize("name", ["deep", "huge enum", "wide", "multiples", "definitions"])
def test_a_tool_s_schema_is_refused_by_the_tool_s_name(
    daemon: Daemon, client: ollama.Client, name: str
) -> None:
    schema, reason = BOMBS[name]
    nested = {"type": "function", "function": {"name": "f", "parameters": schema}}
    flat = {"type": "function", "name": "f", "parameters": schema}

    for (path, body), tool in (
        (NATIVE, nested),
        (OPENAI, nested),
        (ANTHROPIC, {"name": "f", "input_schema": schema}),
        (RESPONSES, flat),
    ):
        status, text = error_of(daemon, path, {**body, "tools": [tool]})
        assert status == 400
        assert 'the parameters of the tool "f"' in text and reason in text, text


FUNCTION = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "?"}


def said(*parts: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


@pytest.mark.parametrize(
    ("asked", "fields", "words"),
    [
        (NATIVE, {"messages": said({"type": "text", "text": "hi"})},
         "cannot unmarshal array into Go struct field"),
        (NATIVE, {"messages": [{**HELLO[0], "images": ["?"]}]}, "illegal base64 data"),
        (OPENAI, {"messages": said(IMAGE)}, "invalid image"),
        (ANTHROPIC, {"messages": said({"type": "image", "source": SOURCE})}, "base64"),
        (ANTHROPIC, {"messages": said(role="robot")}, 'needs a "role": "user" or "assistant"'),
        (NATIVE, {"messages": [{"role": 1}]}, "cannot unmarshal number 1 into Go struct field"),
        (RESPONSES, {"truncation": "zz"}, 'truncation must be "auto" or "disabled", not "zz"'),
        (OPENAI, {"web_search_options": {}}, "web_search_options is not supported"),
        (OPENAI, {"tools": [{"type": "function", "function": {}}]}, "a tool has no function.name"),
        (ANTHROPIC, {"tools": [{"input_schema": {}}]}, 'each of "tools" needs a "name"'),
        (RESPONSES, {"tools": [{"type": "function"}]}, 'needs a "name"'),
        (OPENAI, {"tools": [FUNCTION], "tool_choice": {"type": "function",
         "function": {"name": "g"}}}, 'the function "g", which is not among tools'),
        (ANTHROPIC, {"tools": [{"name": "f", "input_schema": {}}],
         "tool_choice": {"type": "tool", "name": "g"}}, '"g"'),
        (RESPONSES, {"tools": [{"type": "function", "name": "f"}],
         "tool_choice": {"type": "function", "name": "g"}}, '"g"'),
        (OPENAI, {"n": 10**6}, "n must be from 1 to 128"),
        (OPENAI, {"logit_bias": {"99999999": 1}}, "not in the vocabulary of 49152"),
        (OPENAI, {"logit_bias": {"x": 1}}, "the keys of logit_bias must be ids of tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    daemon: Daemon,
    client: ollama.Client,
    asked: tuple[str, dict[str, Any]],
    fields: dict[str, Any],
    words: str,
) -> None:
    path, body = asked

    status, text = error_of(daemon, path, body | fields)

    assert status == 400
    assert words in text, text


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_body_of_100_mb_does_no_harm(daemon: Daemon, client: ollama.Client, path: str) -> None:
    body = b'{"model": "' + b"x" * (100 * 1024 * 1024) + b'"}'

    assert daemon.ask("POST", path, body).status in {400, 404, 413}
    assert daemon.ask("HEAD", "/").status == 200
