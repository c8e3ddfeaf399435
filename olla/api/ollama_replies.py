"""Ollama's replies: values -> JSON objects, with the fields that stay away when empty.

Which fields are always there is spec/api.md section 13. Knows neither HTTP nor the store: what
a reply says about a stored model comes in as ModelSummary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from olla.durations import LONGEST_S, NANOSECONDS
from olla.messages import Message, ToolCall
from olla.requests import ChatChunk, Progress, Timings, TokenLogprob, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What lists and `show` say about a stored model. `digest` is bare hex."""

    name: str
    digest: str
    modified_at: datetime
    size_bytes: int
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What `show` says about a stored model. `modelfile` and `template` are texts as they stand."""

    summary: ModelSummary
    parent_model: str
    modelfile: str
    template: str
    system: str
    licenses: Sequence[str]
    parameters: Mapping[str, Any]
    messages: Sequence[Message]
    requires: str
    info: Mapping[str, Any]
    projector_info: Mapping[str, Any]
    tensors: Sequence[Json]
    draft_info: Mapping[str, Any] = field(default_factory=dict)
    adapters: Sequence[Mapping[str, Any]] = ()


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return msgspec.json.encode(value)


def chat_to_json(chunk: ChatChunk, model: str, num_calls: int = 0) -> Json:
    """`num_calls`: how many calls the chunks before had; calls are numbered through the reply."""
    message = {
        "role": "assistant",
        "content": chunk.content,
        **_beside_content(chunk, num_calls),
    }
    return {
        "model": model,
        "created_at": format_utc(time.time_ns()),
        "message": message,
        **_end(chunk),
    }


def generate_to_json(chunk: ChatChunk, model: str, num_calls: int = 0) -> Json:
    return {
        "model": model,
        "created_at": format_utc(time.time_ns()),
        "response": chunk.content,
        **_beside_content(chunk, num_calls),
        **_end(chunk),
    }


def join_chunks(chunks: Sequence[ChatChunk]) -> ChatChunk:
    """The chunks of a whole reply as one: texts and calls joined, the rest from the last."""
    last = chunks[-1]
    return ChatChunk(
        content="".join(chunk.content for chunk in chunks),
        thinking="".join(chunk.thinking for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        done_reason=last.done_reason,
        timings=last.timings,
        context=last.context,
        rendered_prompt=last.rendered_prompt,
        num_images=last.num_images,
        logprobs=tuple(token for chunk in chunks for token in chunk.logprobs),
        stop_sequence=last.stop_sequence,
    )


def debug_info(chunk: ChatChunk) -> Json:
    """The prompt of a request that only asked for it."""
    return {"rendered_template": chunk.rendered_prompt, **_set(image_count=chunk.num_images)}


def progress_to_json(progress: Progress) -> Json:
    return {
        "status": progress.status,
        **_set(
            digest=progress.digest,
            total=progress.total_bytes,
            completed=progress.completed_bytes,
        ),
    }


def usage_to_json(usage: Usage) -> Json:
    return {
        "models": [
            {"model": model.name, "size": model.size_bytes, "freed": model.freed_bytes}
            for model in usage.models
        ],
        "shared": [
            {"digest": blob.digest, "size": blob.size_bytes, "models": list(blob.models)}
            for blob in usage.shared
        ],
        "total": usage.total_bytes,
        "unused": usage.unused_bytes,
    }


def error_to_json(text: str) -> Json:
    return {"error": text}


def tags_to_json(models: Iterable[ModelSummary]) -> Json:
    """Newest first, by whole seconds."""
    newest = sorted(models, key=lambda model: int(model.modified_at.timestamp()), reverse=True)
    return {"models": [_tag(model) for model in newest]}


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A request that waits, as `ps` tells of it: the state is "loading" or "queued"."""

    request_id: str
    client: str
    model: str
    state: str
    position: int


def ps_to_json(
    loaded: Sequence[Json],
    loading: Sequence[tuple[str, int, int]],
    queue: Sequence[QueueEntry] = (),
) -> Json:
    """The models in memory; those on their way there (name, bytes read, all bytes) stand apart.

    Ollama lists loaded models only, so its clients take every entry of "models" for one.
    """
    entries = [
        {"model": name, "completed": completed, "total": total}
        for name, completed, total in loading
    ]
    waiting = [_set(**asdict(entry)) for entry in queue]
    return {"models": loaded, **_set(loading=entries, queue=waiting)}


def loaded_to_json(
    model: ModelSummary,
    expires_at: datetime | None,
    size_bytes: int,
    vram_bytes: int,
    context_length: int,
    adapter_of: str = "",
) -> Json:
    """An entry of `ps`; `expires_at` None is never, which Ollama shows as 292 years ahead.

    `adapter_of` is the base that an adapter shares with others, in the same memory.
    """
    never = datetime.now(UTC) + timedelta(seconds=LONGEST_S)
    return {
        "name": model.name,
        "model": model.name,
        "size": size_bytes,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": format_local(expires_at or never),
        "size_vram": vram_bytes,
        "context_length": context_length,
        **_set(adapter_of=adapter_of),
    }


def show_to_json(model: ModelDescription) -> Json:
    summary = model.summary
    return {
        "modelfile": model.modelfile,
        "details": {**_details(summary), "parent_model": model.parent_model},
        "model_info": model.info,
        "modified_at": format_local(summary.modified_at),
        **_set(
            license="\n".join(model.licenses),
            parameters=format_parameters(model.parameters),
            template=model.template,
            system=model.system,
            requires=model.requires,
            messages=[{"role": m.role, "content": m.content} for m in model.messages],
            projector_info=model.projector_info,
            draft_info=model.draft_info,
            adapters=model.adapters,
            tensors=model.tensors,
            capabilities=summary.capabilities,
        ),
    }


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """One line for each value, sorted by name: the name in 30 columns, the value as a literal."""
    lines = [
        f"{name:<30} {_literal(value)}"
        for name, values in sorted(parameters.items())
        for value in (values if isinstance(values, list) else [values])
    ]
    return "\n".join(lines)


def format_utc(nanoseconds: int) -> str:
    """A time since the epoch as Go's RFC3339Nano: no zeros at the end of the fraction."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    text = _format_second(seconds)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


@lru_cache(maxsize=4)  # every piece of every reply has a time
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def format_local(moment: datetime) -> str:
    """RFC 3339 with the offset of this machine's time zone."""
    text = moment.astimezone().isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _set(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value}


def _beside_content(chunk: ChatChunk, num_calls: int) -> Json:
    if not (chunk.thinking or chunk.tool_calls):
        return {}  # as for most pieces of a reply
    return _set(thinking=chunk.thinking, tool_calls=_tool_calls(chunk.tool_calls, num_calls))


def _end(chunk: ChatChunk) -> Json:
    """`done`, and what comes behind it; most of that only the last chunk has."""
    if chunk.rendered_prompt is not None:
        return {"done": False, "_debug_info": debug_info(chunk)}
    logprobs = _set(logprobs=[_logprob(token) for token in chunk.logprobs])
    if chunk.done_reason is None:
        return {"done": False, **logprobs}
    return {
        "done": True,
        **logprobs,
        "done_reason": chunk.done_reason,
        **_set(context=chunk.context),
        **_timings(chunk.timings),
    }


def _timings(timings: Timings) -> Json:
    return _set(
        total_duration=timings.total_ns,
        load_duration=timings.load_ns,
        prompt_eval_count=timings.num_prompt_tokens,
        prompt_cache_count=timings.num_cached_tokens,
        prompt_truncated_count=timings.num_truncated_tokens,
        prompt_eval_duration=timings.prompt_ns,
        eval_count=timings.num_tokens,
        eval_duration=timings.generation_ns,
        draft_count=timings.num_drafted_tokens,
        draft_accepted_count=timings.num_accepted_tokens,
    )


def _logprob(token: TokenLogprob) -> Json:
    """A token that nothing predicts, the first of a prompt, is certain."""
    return {
        "token": token.text,
        "logprob": token.logprob or 0.0,
        **_set(bytes=list(token.raw), top_logprobs=[_logprob(other) for other in token.top]),
    }


def _tool_calls(calls: Sequence[ToolCall], first_index: int) -> list[Json]:
    return [
        {
            **_set(id=call.id),
            "function": {"index": index, "name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls, first_index)
    ]


def _tag(model: ModelSummary) -> Json:
    lengths = _set(context_length=model.context_length, embedding_length=model.embedding_length)
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": format_local(model.modified_at),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": {**_details(model), **lengths},
        **_set(capabilities=model.capabilities),
    }


def _literal(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _details(model: ModelSummary) -> Json:
    return {
        "parent_model": "",
        "format": model.format,
        "family": model.family,
        "families": model.families or None,
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    }
