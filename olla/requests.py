"""What every dialect is read into and written from: requests, chunks of a reply, progress.

Knows no JSON and no HTTP. Times are nanoseconds, keep-alives seconds (math.inf is forever).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from olla.messages import Message, Tool, ToolCall
from olla.options import Options


class DoneReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in nanoseconds and counts of tokens; 0 is "nothing to say"."""

    total_ns: int = 0
    load_ns: int = 0
    num_prompt_tokens: int = 0
    prompt_ns: int = 0
    num_tokens: int = 0
    generation_ns: int = 0


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What chat and generate have in common. `model` is the name as the client spelt it."""

    model: str
    stream: bool = True
    options: Options = field(default_factory=Options)
    keep_alive_s: float | None = None
    think: bool | str | None = None
    truncate: bool = True
    shift: bool | None = None
    debug_render_only: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest(InferenceRequest):
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest(InferenceRequest):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    raw: bool = False
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """How a new model is made. "" and empty mean "keep what `base` has".

    `files` and `adapters`: relative path in the repository -> digest text of an uploaded blob.
    `parameters` is a JSON object of options, stored as it is over those of `base`.
    """

    model: str
    base: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    quantize: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    stream: bool = True


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """A piece of a reply. The last one has a `done_reason` and `timings`.

    `context`: token ids of prompt and reply, on generate's last chunk only.
    `rendered_prompt`: set instead of a reply when only the rendering was asked for.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    done_reason: DoneReason | None = None
    timings: Timings = Timings()
    context: tuple[int, ...] = ()
    rendered_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a pull, a create or a load. `digest` is the layer's, where it is about one."""

    status: str
    digest: str = ""
    total_bytes: int = 0
    completed_bytes: int = 0
