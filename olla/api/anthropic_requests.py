"""Anthropic's requests: JSON bodies -> values (spec/openai-anthropic.md section 8.2).

Knows neither HTTP nor the store. A prompt that does not fit the context window is refused, and a
reply ends where the window is full: nothing is cut in silence. Ignored, since the reply is as
right without: `metadata`, `service_tier`, `cache_control`, `context_management`, `speed` and who
pays. Refused by name: what would need tools or files of Anthropic's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olla.api.anthropic_blocks import messages_from_fields, system_from_fields
from olla.api.json_fields import Fields, parse_fields
from olla.api.openai_fields import refuse
from olla.api.turns import check_tool_choice, refuse_tool
from olla.errors import BadInput
from olla.messages import Tool
from olla.options import Options
from olla.requests import ChatRequest, ToolChoice, ToolMode

REFUSED = {
    "container": "run code with tools of your own",
    "mcp_servers": "offer their tools as functions in tools",
    "compaction": "shorten the messages yourself",
    "thread": "send all messages",
}

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_MODES = {
    "auto": ToolMode.AUTO,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
    "none": ToolMode.NONE,
}


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """`shows_thinking`: thinking blocks have their text; without, they are there but empty."""

    chat: ChatRequest
    shows_thinking: bool = True


def messages_from_json(body: bytes) -> MessagesRequest:
    fields = parse_fields(body, "MessagesRequest")
    _require_model(fields)
    max_tokens = fields.integer("max_tokens")
    if max_tokens <= 0:
        raise BadInput("max_tokens is required and must be positive")
    thinking = fields.child("thinking", "anthropic.ThinkingConfig")
    return MessagesRequest(
        _chat(fields, Options.from_json({**_options(fields), "num_predict": max_tokens})),
        shows_thinking=thinking.text("display") != "omitted",
    )


def count_from_json(body: bytes) -> ChatRequest:
    """What the tokens of are to be counted: the same request, but for what it asks of a reply."""
    fields = parse_fields(body, "CountTokensRequest")
    _require_model(fields)
    return _chat(fields, Options())


def _require_model(fields: Fields) -> None:
    if not fields.text("model"):
        raise BadInput("model is required")


def _chat(fields: Fields, options: Options) -> ChatRequest:
    if not fields.raw("messages"):
        raise BadInput("messages is required")
    refuse(fields, REFUSED)
    tools = tuple(_tool(tool) for tool in fields.objects("tools", "anthropic.Tool"))
    return ChatRequest(
        model=fields.text("model"),
        stream=fields.flag("stream"),
        options=options,
        think=_think(fields),
        think_if_able=True,
        truncate=False,
        shift=False,
        format=_format(fields),
        messages=(*system_from_fields(fields), *messages_from_fields(fields)),
        tools=tools,
        tool_choice=check_tool_choice(_tool_choice(fields), tools),
    )


def _options(fields: Fields) -> dict[str, Any]:
    values = {name: fields.raw(name) for name in ("temperature", "top_p", "top_k")}
    return {**values, "stop": fields.texts("stop_sequences") or None}


def _think(fields: Fields) -> bool | str | None:
    """Adaptive thinking, and none named, is as the effort says; no effort is as the model does."""
    kind = fields.child("thinking", "anthropic.ThinkingConfig").text("type")
    if kind in {"enabled", "disabled"}:
        return kind == "enabled"
    effort = fields.child("output_config", "anthropic.OutputConfig").text("effort")
    if effort and effort not in _EFFORTS:
        levels = ", ".join(f'"{level}"' for level in _EFFORTS)
        raise BadInput(f'invalid output_config.effort: "{effort}" (must be one of {levels})')
    return _EFFORTS.get(effort)


def _format(fields: Fields) -> Mapping[str, Any] | None:
    """`output_format` is where early versions of the API have it."""
    config = fields.child("output_config", "anthropic.OutputConfig")
    holder, name = (config, "format") if config.raw("format") else (fields, "output_format")
    if not holder.raw(name):
        return None
    wanted = holder.child(name, "anthropic.OutputFormat")
    schema = wanted.raw("schema")
    if wanted.text("type") != "json_schema" or not isinstance(schema, dict):
        raise BadInput(f'"{name}" must have the type "json_schema" and an object as "schema"')
    return schema


def _tool(fields: Fields) -> Tool:
    kind, name = fields.text("type"), fields.text("name")
    if kind not in {"", "custom"}:
        raise refuse_tool(kind)
    if not name:
        raise BadInput('each of "tools" needs a "name"')
    schema = fields.raw("input_schema")
    if not isinstance(schema, dict):
        raise BadInput(f'invalid input_schema for tool "{name}": it must be an object')
    return Tool(name, fields.text("description"), schema)


def _tool_choice(fields: Fields) -> ToolChoice:
    if fields.raw("tool_choice") is None:
        return ToolChoice()
    choice = fields.child("tool_choice", "anthropic.ToolChoice")
    kind = choice.text("type")
    if kind not in _MODES:
        raise BadInput(f'invalid tool_choice: "{kind}" (must be "auto", "any", "tool" or "none")')
    name = choice.text("name") if kind == "tool" else ""
    if kind == "tool" and not name:
        raise BadInput('"tool_choice" of type "tool" needs a "name"')
    return ToolChoice(_MODES[kind], name, parallel=not choice.flag("disable_parallel_tool_use"))
