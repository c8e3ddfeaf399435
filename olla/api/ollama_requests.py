"""Ollama's requests: JSON bodies -> values (spec/api.md sections 3 to 7).

Knows neither HTTP nor the store. Every wrong type is refused here, before anything runs.
Ignored, as in Ollama: `username`, `password` (pull, push), `template` (show), and the
`items` of tools. Refused by name, since a reply without them would be a wrong one: `remote_host`,
`info`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from olla.api.json_fields import Fields, parse_fields
from olla.durations import parse_keep_alive
from olla.errors import BadInput, InvalidDigest
from olla.messages import Message, Tool, ToolCall
from olla.options import Options
from olla.requests import (
    AdapterChoice,
    ChatRequest,
    CreateRequest,
    GenerateRequest,
    TransferOptions,
)

MAX_TOP_LOGPROBS = 20
MAX_ADAPTERS = 16
MAX_SCALE = 100
_ADAPTER_FIELDS = frozenset({"name", "scale"})

_THINK_LEVELS = ("high", "medium", "low", "max")
_LEVELS = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """`system` and `options` are laid over the model's in the Modelfile that comes back."""

    model: str
    verbose: bool = False
    system: str = ""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class CopyRequest:
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """A pull or a push; `destination` is where the latter goes, "" for where the name says."""

    model: str
    options: TransferOptions
    stream: bool = True
    destination: str = ""


def chat_from_json(body: bytes) -> ChatRequest:
    fields = parse_fields(body, "ChatRequest")
    return ChatRequest(
        **_inference(fields),
        messages=_messages(fields),
        tools=tuple(_tool(tool) for tool in fields.objects("tools", "api.Tool")),
    )


def generate_from_json(body: bytes) -> GenerateRequest:
    fields = parse_fields(body, "GenerateRequest")
    return GenerateRequest(
        **_inference(fields),
        prompt=fields.text("prompt"),
        suffix=fields.text("suffix"),
        system=fields.text("system"),
        template=fields.text("template"),
        context=fields.integers("context"),
        raw=fields.flag("raw"),
        images=_images(fields),
    )


def create_from_json(body: bytes) -> CreateRequest:
    fields = parse_fields(body, "CreateRequest")
    _refuse(fields, ("remote_host", "info"))
    if fields.text("draft_quantize") and not fields.object("draft_files"):
        raise BadInput("--draft-quantize requires a DRAFT model")
    parameters = fields.object("parameters")
    Options.from_json(parameters)
    return CreateRequest(
        model=_model(fields),
        base=fields.text("from"),
        files=_files(fields, "files"),
        adapters=_files(fields, "adapters"),
        adapter_scales=_scales(fields),
        draft_files=_files(fields, "draft_files"),
        template=fields.text("template"),
        system=fields.text("system"),
        renderer=fields.text("renderer"),
        parser=fields.text("parser"),
        requires=fields.text("requires"),
        quantize=fields.text("quantize") or fields.text("quantization"),
        draft_quantize=fields.text("draft_quantize"),
        licenses=_licenses(fields),
        parameters=parameters,
        messages=_messages(fields),
        force=fields.flag("force"),
        stream=fields.flag("stream", default=True),
    )


def show_from_json(body: bytes) -> ShowRequest:
    fields = parse_fields(body, "ShowRequest")
    return ShowRequest(
        model=_model(fields),
        verbose=fields.flag("verbose"),
        system=fields.text("system"),
        options=Options.from_json(fields.object("options")),
    )


def copy_from_json(body: bytes) -> CopyRequest:
    fields = parse_fields(body, "CopyRequest")
    return CopyRequest(source=fields.text("source"), destination=fields.text("destination"))


def pull_from_json(body: bytes) -> TransferRequest:
    """`limit_rate` (bytes a second) and `dry_run` are olla's own."""
    return _transfer(parse_fields(body, "PullRequest"))


def push_from_json(body: bytes) -> TransferRequest:
    """`limit_rate`, `destination` and `private` are olla's own."""
    fields = parse_fields(body, "PushRequest")
    request = _transfer(fields)
    if not request.model:
        raise BadInput("model is required")
    options = replace(request.options, private=fields.flag("private"))
    return replace(request, options=options, destination=fields.text("destination"))


def _transfer(fields: Fields) -> TransferRequest:
    limit_rate = fields.integer("limit_rate")
    if limit_rate < 0:
        raise BadInput("limit_rate must be 0 or more bytes a second")
    options = TransferOptions(fields.flag("insecure"), limit_rate, fields.flag("dry_run"))
    return TransferRequest(_model(fields), options, fields.flag("stream", default=True))


def delete_from_json(body: bytes) -> str:
    """The name of the model, as the client spelt it."""
    return _model(parse_fields(body, "DeleteRequest"))


def _model(fields: Fields) -> str:
    model, old_name = fields.text("model"), fields.text("name")
    return model or old_name


def _inference(fields: Fields) -> dict[str, Any]:
    """What chat and generate have in common."""
    if not 0 <= fields.integer("top_logprobs") <= MAX_TOP_LOGPROBS:
        raise BadInput(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return {
        "model": fields.text("model"),
        "stream": fields.flag("stream", default=True),
        "options": Options.from_json(fields.object("options")),
        "keep_alive_s": parse_keep_alive(fields.raw("keep_alive")),
        "think": _think(fields.raw("think")),
        "truncate": fields.flag("truncate", default=True),
        "shift": None if fields.raw("shift") is None else fields.flag("shift"),
        "debug_render_only": fields.flag("_debug_render_only"),
        "format": _format(fields.raw("format")),
        "logprobs": fields.flag("logprobs"),
        "top_logprobs": fields.integer("top_logprobs"),
        "adapters": _adapters(fields),
    }


def _adapters(fields: Fields) -> tuple[AdapterChoice, ...] | None:
    entries = fields.raw("adapters")
    if entries is None:
        return None
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise BadInput('adapters: write a list, as in [{"name": "pirate", "scale": 0.5}]')
    unknown = {key for entry in entries for key in entry if key.lower() not in _ADAPTER_FIELDS}
    if unknown:
        raise BadInput(f"adapters: unknown field {min(unknown)!r}; each has a name and a scale")
    found = fields.objects("adapters", "api.Adapter")
    if len(found) > MAX_ADAPTERS:
        raise BadInput(f"a request can use {MAX_ADAPTERS} adapters, not more")
    for entry in found:
        if not entry.text("name"):
            raise BadInput("adapters: each needs the name of a model that is an adapter")
    return tuple(AdapterChoice(item.text("name"), _scale(item, "scale")) for item in found)


def _scales(fields: Fields) -> dict[str, float]:
    values = Fields(fields.object("adapter_scales"), "CreateRequest.adapter_scales")
    return {name: _scale(values, name) for name in fields.object("adapter_scales")}


def _scale(fields: Fields, name: str) -> float:
    scale = fields.number(name, 1.0)
    if not -MAX_SCALE <= scale <= MAX_SCALE:
        raise BadInput(f"the scale of an adapter must be between -{MAX_SCALE} and {MAX_SCALE}")
    return scale


def _refuse(fields: Fields, names: Iterable[str]) -> None:
    for name in names:
        if fields.raw(name):  # "", 0, false and {} ask for nothing
            raise BadInput(f'"{name}" is not supported by this server')


def _format(value: object) -> dict[str, Any] | None:
    """The schema that the reply must match."""
    if value is None or value == "":
        return None
    if value == "json":
        return {"type": "object"}
    if not isinstance(value, dict):
        raw = json.dumps(value, ensure_ascii=False)
        raise BadInput(f'invalid format: {raw}; expected "json" or a valid JSON Schema object')
    return value


def _think(value: object) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadInput(f"think must be a boolean or string ({_LEVELS}, true, or false)")
    if value not in _THINK_LEVELS:
        raise BadInput(f'invalid think value: "{value}" (must be {_LEVELS}, true, or false)')
    return value


def _messages(fields: Fields) -> tuple[Message, ...]:
    return tuple(_message(message) for message in fields.objects("messages", "api.Message"))


def _message(fields: Fields) -> Message:
    return Message(
        role=fields.text("role").lower(),
        content=fields.text("content"),
        thinking=fields.text("thinking"),
        images=_images(fields),
        tool_calls=tuple(_tool_call(c) for c in fields.objects("tool_calls", "api.ToolCall")),
        tool_name=fields.text("tool_name"),
        tool_call_id=fields.text("tool_call_id"),
    )


def _tool_call(fields: Fields) -> ToolCall:
    function = fields.child("function", "api.ToolCallFunction")
    return ToolCall(
        name=function.text("name"),
        arguments=function.object("arguments", "api.ToolCallFunctionArguments"),
        id=fields.text("id"),
    )


def _tool(fields: Fields) -> Tool:
    function = fields.child("function", "api.ToolFunction")
    return Tool(
        name=function.text("name"),
        description=function.text("description"),
        parameters=function.object("parameters", "api.ToolFunctionParameters"),
    )


def _images(fields: Fields) -> tuple[bytes, ...]:
    return tuple(_image(index, text) for index, text in enumerate(fields.texts("images")))


def _image(index: int, text: str) -> bytes:
    text = text.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        stray = _NOT_BASE64.search(text)
        position = stray.start() if stray else len(text)
        raise BadInput(f"images[{index}]: illegal base64 data at input byte {position}") from error


def _files(fields: Fields, name: str) -> dict[str, str]:
    files = fields.text_map(name)
    for path, digest in files.items():
        if any(part in {"", ".", ".."} for part in path.split("/")):
            raise BadInput("file path must be relative")
        if not digest:
            raise InvalidDigest(digest)
    return files


def _licenses(fields: Fields) -> tuple[str, ...]:
    """One text, or a list of them."""
    if isinstance(fields.raw("license"), list):
        return fields.texts("license")
    text = fields.text("license")
    return (text,) if text else ()
