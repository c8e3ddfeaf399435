"""What the client's calls give and take, and its JSON (spec/api.md sections 3 to 7).

Pure functions and frozen values: no connection. A field that the daemon left out is "" or empty.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from olla.messages import Message, ToolCall
from olla.requests import (
    ChatChunk,
    CreateRequest,
    DoneReason,
    ModelUsage,
    Progress,
    SharedBlob,
    Timings,
    TransferOptions,
    Usage,
)

Json = Mapping[str, Any]

THINK_LEVELS = ("high", "medium", "low", "max")
"""What `think` may be beside true and false."""


@dataclass(frozen=True, slots=True)
class Versions:
    """`olla` is "" when another program that speaks the API answers."""

    api: str
    olla: str


@dataclass(frozen=True, slots=True)
class ListedModel:
    name: str
    digest: str
    size_bytes: int
    modified_at: datetime
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class RunningModel:
    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_length: int
    expires_at: datetime
    adapter_of: str = ""


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShownAdapter:
    """`format` is "peft" or "gguf"."""

    format: str
    scale: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request that waits: while its model is "loading", or "queued" at a position from 1 on."""

    request_id: str
    client: str
    model: str
    state: str
    position: int


@dataclass(frozen=True, slots=True)
class ShownModel:
    """What `/api/show` tells; "" and empty where the daemon has nothing to say."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    requires: str = ""
    remote_model: str = ""
    remote_host: str = ""
    parent: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    capabilities: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    model_info: Json = field(default_factory=dict)
    projector_info: Json = field(default_factory=dict)
    draft_info: Json = field(default_factory=dict)
    adapters: tuple[ShownAdapter, ...] = ()
    tensors: tuple[Tensor, ...] = ()

    @property
    def sees(self) -> bool:
        return "vision" in self.capabilities


@dataclass(frozen=True, slots=True)
class Collected:
    """Files that no model needs, by name and size."""

    files: tuple[tuple[str, int], ...] = ()
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """What generate and chat have in common. None and empty leave it to the daemon."""

    model: str
    options: Json = field(default_factory=dict)
    format: str | Json | None = None
    think: bool | str | None = None
    keep_alive: str | int | None = None

    def to_json(self) -> dict[str, Any]:
        values = {
            "model": self.model,
            "options": dict(self.options) or None,
            "format": self.format,
            "think": self.think,
            "keep_alive": self.keep_alive,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How a text becomes a vector. None leaves it to the daemon."""

    model: str
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: str | None = None

    def to_json(self) -> dict[str, Any]:
        values = {
            "model": self.model,
            "truncate": self.truncate,
            "dimensions": self.dimensions,
            "keep_alive": self.keep_alive,
        }
        return {name: value for name, value in values.items() if value is not None}


def chunk_from_json(reply: Json) -> ChatChunk:
    message: Json = reply.get("message") or {}
    calls = message.get("tool_calls") or reply.get("tool_calls") or ()
    reason = reply.get("done_reason")
    return ChatChunk(
        content=reply.get("response") or message.get("content") or "",
        thinking=reply.get("thinking") or message.get("thinking") or "",
        tool_calls=tuple(_tool_call_from_json(call["function"]) for call in calls),
        done_reason=DoneReason(reason) if reason in set(DoneReason) else None,
        timings=Timings(
            total_ns=reply.get("total_duration", 0),
            load_ns=reply.get("load_duration", 0),
            num_prompt_tokens=reply.get("prompt_eval_count", 0),
            prompt_ns=reply.get("prompt_eval_duration", 0),
            num_tokens=reply.get("eval_count", 0),
            generation_ns=reply.get("eval_duration", 0),
            num_cached_tokens=reply.get("prompt_cache_count", 0),
            num_truncated_tokens=reply.get("prompt_truncated_count", 0),
            num_drafted_tokens=reply.get("draft_count", 0),
            num_accepted_tokens=reply.get("draft_accepted_count", 0),
        ),
    )


def _tool_call_from_json(function: Json) -> ToolCall:
    return ToolCall(name=function.get("name", ""), arguments=function.get("arguments") or {})


def message_to_json(message: Message) -> Json:
    return {"role": message.role, "content": message.content, **images_to_json(message.images)}


def images_to_json(images: Iterable[bytes]) -> Json:
    encoded = [base64.b64encode(image).decode() for image in images]
    return {"images": encoded} if encoded else {}


def progress_from_json(reply: Json) -> Progress:
    return Progress(
        status=reply.get("status", ""),
        digest=reply.get("digest", ""),
        total_bytes=reply.get("total", 0),
        completed_bytes=reply.get("completed", 0),
    )


def listed_from_json(model: Json) -> ListedModel:
    return ListedModel(
        name=model["name"],
        digest=model["digest"],
        size_bytes=model["size"],
        modified_at=datetime.fromisoformat(model["modified_at"]),
        is_remote=bool(model.get("remote_model")),
    )


def usage_from_json(reply: Json) -> Usage:
    return Usage(
        models=tuple(ModelUsage(m["model"], m["size"], m["freed"]) for m in reply["models"]),
        shared=tuple(
            SharedBlob(blob["digest"], blob["size"], tuple(blob["models"]))
            for blob in reply["shared"]
        ),
        total_bytes=reply["total"],
        unused_bytes=reply["unused"],
    )


def collected_from_json(reply: Json) -> Collected:
    files = tuple((file["file"], file["size"]) for file in reply["removed"])
    return Collected(files, reply["freed"])


def running_from_json(model: Json) -> RunningModel:
    return RunningModel(
        name=model["name"],
        digest=model["digest"],
        size_bytes=model["size"],
        vram_bytes=model["size_vram"],
        context_length=model.get("context_length", 0),
        expires_at=datetime.fromisoformat(model["expires_at"]),
        adapter_of=model.get("adapter_of", ""),
    )


def loading_from_json(model: Json) -> Progress:
    return Progress(
        status=model.get("model", ""),
        total_bytes=model.get("total", 0),
        completed_bytes=model.get("completed", 0),
    )


def queued_from_json(entry: Json) -> QueuedRequest:
    return QueuedRequest(
        **{name: entry.get(name) or "" for name in ("request_id", "client", "model", "state")},
        position=entry.get("position") or 0,
    )


def shown_from_json(reply: Json) -> ShownModel:
    details: Json = reply.get("details") or {}
    texts = ("license", "modelfile", "parameters", "template", "system", "requires")
    return ShownModel(
        **{name: reply.get(name) or "" for name in (*texts, "remote_model", "remote_host")},
        parent=details.get("parent_model") or "",
        family=details.get("family") or "",
        parameter_size=details.get("parameter_size") or "",
        quantization=details.get("quantization_level") or "",
        capabilities=tuple(reply.get("capabilities") or ()),
        messages=tuple(
            Message(role=turn["role"], content=turn["content"])
            for turn in reply.get("messages") or ()
        ),
        model_info=reply.get("model_info") or {},
        projector_info=reply.get("projector_info") or {},
        draft_info=reply.get("draft_info") or {},
        adapters=tuple(
            ShownAdapter(adapter["format"], adapter["scale"], adapter["size"])
            for adapter in reply.get("adapters") or ()
        ),
        tensors=tuple(
            Tensor(name=tensor["name"], type=tensor["type"], shape=tuple(tensor["shape"]))
            for tensor in reply.get("tensors") or ()
        ),
    )


def create_to_json(request: CreateRequest) -> Json:
    values = {
        "model": request.model,
        "from": request.base,
        "files": dict(request.files),
        "adapters": dict(request.adapters),
        "adapter_scales": dict(request.adapter_scales),
        "draft_files": dict(request.draft_files),
        "quantize": request.quantize,
        "draft_quantize": request.draft_quantize,
        "template": request.template,
        "system": request.system,
        "renderer": request.renderer,
        "parser": request.parser,
        "requires": request.requires,
        "license": list(request.licenses),
        "parameters": dict(request.parameters),
        "messages": [message_to_json(message) for message in request.messages],
        "force": request.force,
    }
    return {name: value for name, value in values.items() if value}


def transfer_to_json(model: str, options: TransferOptions) -> Json:
    """The body of a pull or a push; what is not asked for is not there."""
    wanted = asdict(options)
    return {"model": model, **{key: value for key, value in wanted.items() if value}}
