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


class ToolMode(StrEnum):
    """Whether the model may, must not or must call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the reply may call. `name`, with REQUIRED, is the one that it must."""

    mode: ToolMode = ToolMode.AUTO
    name: str = ""
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its natural logarithm of probability, before any filter.

    `text` is the token alone, with U+FFFD where it is part of a character; `raw` its bytes.
    `logprob` is None for the first token of a prompt, which nothing predicts. `top`: the likeliest
    tokens at this place, likeliest first.
    """

    text: str
    raw: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in nanoseconds and counts of tokens; 0 is "nothing to say".

    `num_prompt_tokens` counts the prompt as it was run: `num_cached_tokens` of it were found in the
    cache, and `num_truncated_tokens` more were left out before, to fit the window.
    `num_thinking_tokens` are part of `num_tokens`. `num_accepted_tokens` of `num_drafted_tokens`
    were drafted as they came.
    """

    total_ns: int = 0
    load_ns: int = 0
    num_prompt_tokens: int = 0
    prompt_ns: int = 0
    num_tokens: int = 0
    generation_ns: int = 0
    num_cached_tokens: int = 0
    num_truncated_tokens: int = 0
    num_thinking_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """An adapter for one request: the name of a model that is one over the same base."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What chat and generate have in common. `model` is the name as the client spelt it.

    `adapters` take the place of the model's own; an empty one asks for the bare base.

    `format`: the JSON schema that the reply must match; "json" is read as `{"type": "object"}`.
    `logit_bias`: token id -> what is added to its logit. `think_if_able`: `think` is nothing to
    a model that cannot, instead of an error. `keeps_messages_whole`: where `truncate` leaves
    messages out, none is cut.
    """

    model: str
    stream: bool = True
    options: Options = field(default_factory=Options)
    keep_alive_s: float | None = None
    think: bool | str | None = None
    think_if_able: bool = False
    truncate: bool = True
    keeps_messages_whole: bool = False
    shift: bool | None = None
    debug_render_only: bool = False
    format: Mapping[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    adapters: tuple[AdapterChoice, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest(InferenceRequest):
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()


@dataclass(frozen=True, slots=True)
class GenerateRequest(InferenceRequest):
    """`tokens`: the prompt as token ids instead of text, used as it is.

    `echo`: the reply begins with the prompt, with its logprobs if logprobs are wanted.
    """

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    raw: bool = False
    images: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    echo: bool = False


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts, or token ids, to turn into vectors. `dimensions` 0 leaves their length."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...] = ()
    truncate: bool = True
    dimensions: int = 0
    normalize: bool = True
    options: Options = field(default_factory=Options)
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to order by how well they answer `query`; `top_n` 0 wants them all."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int = 0
    options: Options = field(default_factory=Options)
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """One vector for each input, in order, as little-endian float32."""

    vectors: tuple[bytes, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Rank:
    """A document, by its index in the request, and how well it answers the query."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class RerankReply:
    """The best documents, best first."""

    ranks: tuple[Rank, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """How a new model is made. "" and empty mean "keep what `base` has".

    `files` and `adapters`: relative path in the repository -> digest text of an uploaded blob; each
    folder of `adapters`, and each GGUF file, is an adapter. `adapter_scales` names them by folder,
    or by file where there is no folder; 1 is what is not named. `draft_files` is the model that
    drafts for it, to be quantized to `draft_quantize`.
    `parameters` is a JSON object of options, stored as it is over those of `base`. `force`: an
    adapter that names another base than this is laid over it nevertheless.
    """

    model: str
    base: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapter_scales: Mapping[str, float] = field(default_factory=dict)
    draft_files: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    quantize: str = ""
    draft_quantize: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    force: bool = False
    stream: bool = True


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """A piece of a reply. The last one has a `done_reason` and `timings`.

    `context`: token ids of prompt and reply, on generate's last chunk only. `stop_sequence`: the
    stop text that ended the reply, on the last chunk. `logprobs`: of the tokens in this piece.
    `rendered_prompt`: set instead of a reply when only the rendering was asked for; it has places
    for `num_images`.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    done_reason: DoneReason | None = None
    timings: Timings = Timings()
    context: tuple[int, ...] = ()
    rendered_prompt: str | None = None
    num_images: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    stop_sequence: str = ""


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How a model goes over the network. `insecure`: over plain HTTP, if the name has a host.

    `limit_rate` in bytes a second; 0 is no limit. `dry_run`: only say what would be transferred.
    `private`: a hub's repository that a push makes is not for everyone.
    """

    insecure: bool = False
    limit_rate: int = 0
    dry_run: bool = False
    private: bool = False


PLAIN_TRANSFER = TransferOptions()


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a pull, a create or a load. `digest` is the layer's, where it is about one."""

    status: str
    digest: str = ""
    total_bytes: int = 0
    completed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """`freed_bytes`: what deleting this model, and no other, gives back."""

    name: str
    size_bytes: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class SharedBlob:
    """A blob that several models have, and their names. `digest` as in JSON, `sha256:<hex>`."""

    digest: str
    size_bytes: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What models take of the disk, together and each alone.

    `total_bytes` counts each blob once; `unused_bytes` are files that no model needs.
    """

    models: tuple[ModelUsage, ...] = ()
    shared: tuple[SharedBlob, ...] = ()
    total_bytes: int = 0
    unused_bytes: int = 0
