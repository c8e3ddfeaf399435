"""Requests for chat completions: JSON body -> ChatRequest (spec/openai-anthropic.md section 2.1).

Ignored, since the reply is right without them: `user`, `safety_identifier`, `metadata`, `store`,
`service_tier`, `prediction`, `prompt_cache_key`, `prompt_cache_options`, `prompt_cache_retention`,
`verbosity`, `keep_alive`, `options`, and any other `type` of `response_format`. Refused by name:
see `_REFUSED`, `modalities` other than text, and the parts of messages and tools that
openai_messages.py and openai_tools.py name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olla.api.json_fields import Fields
from olla.api.openai_fields import (
    MAX_TOP_LOGPROBS,
    Asked,
    common_fields,
    count,
    include_usage,
    num_choices,
    options,
    parse_body,
    refuse,
    think_of,
)
from olla.api.openai_messages import messages_of
from olla.api.openai_tools import tools_of
from olla.errors import BadInput
from olla.requests import ChatRequest

_REFUSED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "replies are text",
    "moderation": "leave it out",
    "web_search_options": "leave it out",
}


def chat_from_json(body: bytes) -> Asked[ChatRequest]:
    """
    Raises:
        BadInput: it is no such request, or one that cannot be answered.
    """
    fields = parse_body(body, "ChatCompletionRequest")
    refuse(fields, _REFUSED)
    if any(kind != "text" for kind in fields.texts("modalities")):
        raise BadInput('modalities other than "text" are not supported by this server')
    tools, tool_choice = tools_of(fields)
    request = ChatRequest(
        **common_fields(fields),
        **_logprobs(fields),
        options=options(fields, **_options(fields)),
        think=think_of(_effort(fields)),
        format=_format(fields),
        messages=messages_of(fields),
        tools=tools,
        tool_choice=tool_choice,
    )
    return Asked((request,), num_choices(fields), include_usage(fields))


def _options(fields: Fields) -> dict[str, object]:
    """Those that have other names or defaults than Ollama's."""
    limit, newer_limit = count(fields, "max_tokens"), count(fields, "max_completion_tokens")
    top_p = fields.raw("top_p")
    return {
        "num_predict": limit if newer_limit is None else newer_limit,
        "top_p": 1.0 if top_p is None else top_p,
        "stop": _stop(fields.raw("stop")),
    }


def _stop(stop: object) -> list[str] | None:
    """As Ollama, which skips what is no text."""
    if isinstance(stop, str):
        return [stop]
    return [text for text in stop if isinstance(text, str)] if isinstance(stop, list) else None


def _effort(fields: Fields) -> str:
    return fields.child("reasoning", "openai.Reasoning").text("effort") or fields.text(
        "reasoning_effort"
    )


def _format(fields: Fields) -> Mapping[str, Any] | None:
    wanted = fields.child("response_format", "openai.ResponseFormat")
    kind = wanted.text("type").strip().lower()
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        return None
    schema = wanted.child("json_schema", "openai.JsonSchema")
    if schema.raw("schema") is None:
        raise BadInput('response_format of type "json_schema" needs json_schema.schema')
    return schema.object("schema")


def _logprobs(fields: Fields) -> dict[str, Any]:
    wanted, num_top = fields.flag("logprobs"), fields.integer("top_logprobs")
    if not 0 <= num_top <= MAX_TOP_LOGPROBS:
        raise BadInput(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    if num_top and not wanted:
        raise BadInput("top_logprobs needs logprobs to be true")
    return {"logprobs": wanted, "top_logprobs": num_top}
