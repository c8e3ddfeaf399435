"""Requests for completions: JSON body -> GenerateRequests (spec/openai-anthropic.md section 3).

A text is put through the model's template, as in Ollama; with `echo` it is used as it is, since
whoever wants the prompt back wants its tokens scored, not the template's. Prompts of token ids are
used as they are. Ignored: `user`, `keep_alive`, `options`. Refused: `best_of` other than `n`.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from olla.api.json_fields import Fields, go_type
from olla.api.openai_fields import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    Asked,
    common_fields,
    count,
    include_usage,
    num_choices,
    options,
    parse_body,
)
from olla.errors import BadInput
from olla.requests import GenerateRequest

_MAX_TOKEN = 2**31 - 1


def completion_from_json(body: bytes) -> Asked[GenerateRequest]:
    """
    Raises:
        BadInput: it is no such request, or one that cannot be answered.
    """
    fields = parse_body(body, "CompletionRequest")
    number = num_choices(fields)
    if count(fields, "best_of") not in {None, number}:
        raise BadInput("best_of is not supported by this server; leave it out or set it to n")
    common = {
        **common_fields(fields),
        **_logprobs(fields),
        "options": options(fields, **_options(fields)),
        "suffix": fields.text("suffix"),
        "echo": fields.flag("echo"),
    }
    requests = tuple(
        GenerateRequest(**common, **prompt) for prompt in _prompts(fields, raw=common["echo"])
    )
    return Asked(requests, number, include_usage(fields))


def _options(fields: Fields) -> dict[str, object]:
    """Those that have other names or defaults than Ollama's."""
    return {
        "num_predict": count(fields, "max_tokens"),
        "top_p": fields.raw("top_p") or 1.0,
        "frequency_penalty": fields.raw("frequency_penalty") or 0.0,
        "presence_penalty": fields.raw("presence_penalty") or 0.0,
        "stop": _stop(fields.raw("stop")),
    }


def _stop(stop: object) -> list[str] | None:
    if stop is None:
        return None
    return [_stop_text(item) for item in (stop if isinstance(stop, list) else [stop])]


def _stop_text(item: object) -> str:
    if not isinstance(item, str):
        raise BadInput(f"invalid type for 'stop' field: {go_type(item)}")
    return item


def _logprobs(fields: Fields) -> dict[str, Any]:
    number = count(fields, "logprobs")
    if number is not None and not 0 <= number <= MAX_TOP_LOGPROBS:
        raise BadInput(f"logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return {"logprobs": number is not None, "top_logprobs": number or 0}


def _prompts(fields: Fields, *, raw: bool) -> list[dict[str, Any]]:
    """Each prompt as the fields of a GenerateRequest."""
    prompt = fields.raw("prompt")
    if not isinstance(prompt, list):
        return [_text(fields.text("prompt"), raw)]
    if _are_tokens(prompt):
        return [_tokens(prompt)]
    if not 1 <= len(prompt) <= MAX_CHOICES:
        raise BadInput(f"prompt must hold from 1 to {MAX_CHOICES} prompts")
    return [_text(item, raw) if isinstance(item, str) else _tokens(item) for item in prompt]


def _text(text: str, raw: bool) -> dict[str, Any]:
    return {"prompt": text, "raw": raw}


def _tokens(item: object) -> dict[str, Any]:
    if not _are_tokens(item):
        raise BadInput("prompt must be a text, texts, ids of tokens, or lists of such ids")
    return {"tokens": tuple(item)}


def _are_tokens(item: object) -> TypeGuard[list[int]]:
    return isinstance(item, list) and bool(item) and all(map(_is_token, item))


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKEN
