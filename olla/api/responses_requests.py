"""OpenAI's responses: JSON bodies -> values (spec/openai-anthropic.md section 6.1).

Knows neither HTTP nor what is kept of earlier responses: their items come in as JSON. A prompt that
does not fit the context window is refused unless `truncation` is "auto". Ignored, since the reply
is as right without: `include` of what tools of OpenAI's would have found, `text.verbosity`,
`stream_options` and what names users and caches. Refused by name: what would need OpenAI's store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from olla.api.json_fields import Fields
from olla.api.openai_fields import MAX_TOP_LOGPROBS, parse_body, refuse, think_of
from olla.api.responses_items import messages_from_items
from olla.api.responses_tools import tool_choice_from_fields, tools_from_fields
from olla.api.turns import check_depth
from olla.errors import BadInput
from olla.options import Options
from olla.requests import ChatRequest

Json = dict[str, Any]
Recall = Callable[[str], Sequence[Json]]

_TRUNCATIONS = ("auto", "disabled")
REFUSED = {
    "background": "leave it out and wait for the reply or stream it",
    "conversation": "go on from previous_response_id, or send all items as input",
    "prompt": "send instructions and input",
    "context_management": "shorten the input, or set truncation to auto",
    "moderation": "leave it out",
}

_ECHOED = (
    "max_output_tokens",
    "max_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "instructions",
)


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """`items`: the conversation so far, with the earlier ones. `echo`: what the reply repeats of
    the request.

    `namespaces`: the functions that belong to one, by the name that the model knows them by, as
    namespace and name.
    """

    chat: ChatRequest
    items: Sequence[Json]
    echo: Mapping[str, Any]
    store: bool = True
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def responses_from_json(body: bytes, recall: Recall) -> ResponsesRequest:
    """`recall` gives the items of the conversation that ended with an earlier response."""
    fields = parse_body(body, "ResponsesRequest")
    if not fields.text("model"):
        raise BadInput("model is required")
    refuse(fields, REFUSED)
    previous_id = fields.text("previous_response_id")
    items = (*(recall(previous_id) if previous_id else ()), *_items(fields))
    tools, namespaces = tools_from_fields(fields)
    choice, offered = tool_choice_from_fields(fields, tools)
    truncate = _truncate(fields)
    chat = ChatRequest(
        model=fields.text("model"),
        stream=fields.flag("stream"),
        options=_options(fields),
        think=_think(fields),
        truncate=truncate,
        keeps_messages_whole=True,
        shift=None if truncate else False,
        format=_format(fields),
        messages=messages_from_items(fields.text("instructions"), items),
        tools=offered,
        tool_choice=choice,
        **_logprobs(fields),
    )
    echo = _echo(fields)
    check_depth(items, echo)
    return ResponsesRequest(chat, items, echo, echo["store"], namespaces)


def _truncate(fields: Fields) -> bool:
    how = fields.text("truncation") or "disabled"
    if how not in _TRUNCATIONS:
        raise BadInput(f'truncation must be "auto" or "disabled", not "{how}"')
    return how == "auto"


def _items(fields: Fields) -> tuple[Json, ...]:
    value = fields.raw("input")
    if isinstance(value, str):
        return ({"type": "message", "role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise BadInput('"input" is required: a string or an array of items')
    if not all(isinstance(item, dict) for item in value):
        raise BadInput('"input" must be a string or an array of objects')
    return tuple(value)


def _options(fields: Fields) -> Options:
    """Temperature is 1 where none is named, whatever the model's own is."""
    temperature = fields.raw("temperature")
    limit = fields.raw("max_output_tokens")
    if limit is not None and fields.integer("max_output_tokens") <= 0:
        raise BadInput('"max_output_tokens" must be positive')
    return Options.from_json(
        {
            "temperature": 1.0 if temperature is None else temperature,
            "top_p": fields.raw("top_p"),
            "num_predict": limit,
        }
    )


def _think(fields: Fields) -> bool | str | None:
    effort = fields.child("reasoning", "responses.Reasoning").text("effort")
    return think_of(effort)


def _format(fields: Fields) -> Mapping[str, Any] | None:
    wanted = fields.child("text", "responses.Text").child("format", "responses.Format")
    kind, schema = wanted.text("type"), wanted.raw("schema")
    if kind in {"", "text"}:
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema" or not isinstance(schema, dict):
        raise BadInput(
            '"text.format" must have the type "text", "json_object", or "json_schema" with an '
            'object as "schema"'
        )
    return schema


def _logprobs(fields: Fields) -> dict[str, Any]:
    top = fields.integer("top_logprobs")
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise BadInput(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    wanted = bool(top) or "message.output_text.logprobs" in fields.texts("include")
    return {"logprobs": wanted, "top_logprobs": top}


def _echo(fields: Fields) -> Json:
    def or_else(name: str, default: Any) -> Any:
        value = fields.raw(name)
        return default if value is None else value

    reasoning = fields.object("reasoning")
    return {
        **{name: fields.raw(name) for name in _ECHOED},
        "previous_response_id": fields.text("previous_response_id") or None,
        "tools": or_else("tools", []),
        "tool_choice": or_else("tool_choice", "auto"),
        "truncation": or_else("truncation", "disabled"),
        "parallel_tool_calls": or_else("parallel_tool_calls", True),
        "text": {"format": {"type": "text"}, **fields.object("text")},
        "top_p": or_else("top_p", 1.0),
        "temperature": or_else("temperature", 1.0),
        "top_logprobs": fields.integer("top_logprobs"),
        "reasoning": dict(_reasoning(reasoning)) if reasoning else None,
        "metadata": fields.text_map("metadata"),
        "store": fields.flag("store", default=True),
        "background": False,
    }


def _reasoning(asked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("effort", "summary"):
        yield name, asked.get(name)
