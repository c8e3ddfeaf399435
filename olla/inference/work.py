"""Work: a request laid over its model: what is asked for, checked, with nothing left open.

Pure functions; knows nothing about runners, rendering or time. The checks and their order are
spec/api.md sections 3.4, 4.2 and 5.2, the options' sections 3.2 and 11.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from olla.errors import BadInput, CapabilityMissing
from olla.inference.estimate import needed_bytes
from olla.inference.images import check_images
from olla.inference.prompt import Prompt
from olla.inference.tool_text import with_tools_described
from olla.messages import Message, Tool
from olla.options import Options
from olla.parsers.choose import VERBATIM, Choice
from olla.parsers.reply_grammar import reply_grammar
from olla.registry.model import Capability, Model
from olla.registry.weights import GGUF_NAME
from olla.requests import (
    ChatRequest,
    GenerateRequest,
    InferenceRequest,
    ToolChoice,
    ToolMode,
)
from olla.runner.devices import may_have_gpu
from olla.runner.pool import RunnableModel
from olla.runner.protocol import Adapter, Files, Generate, Grammar, Schema
from olla.schemas import check_schemas
from olla.settings import Settings

_log = logging.getLogger(__name__)

DEFAULT_NUM_CTX = 4096
MIN_NUM_CTX = 4
MIN_NUM_CTX_OF_SEEING = 2048  # an image takes some hundreds
MAX_WINDOWS = 10  # a reply is at most this many times num_ctx long
DEFAULT_NUM_KEEP = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Without messages, `raw` and `tokens` there is only the model to load.

    `raw` and `tokens` are prompts that are used as they are, `template` replaces the model's.
    With a `suffix`, the only message is the text before it. `adapters` None are the model's own.
    `shown_tools` are those of the tools on offer that the template is given.
    """

    request: InferenceRequest
    model: Model
    options: Options
    settings: Settings
    num_ctx: int
    think: bool | str | None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    shown_tools: tuple[Tool, ...] = ()
    suffix: str = ""
    template: str = ""
    raw: str = ""
    raw_images: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    echo: bool = False
    context: tuple[int, ...] = ()
    wants_context: bool = False
    adapters: tuple[Adapter, ...] | None = None

    @property
    def is_load(self) -> bool:
        return not self.messages and not self.is_raw

    @property
    def is_raw(self) -> bool:
        """Whether the prompt is used as it is."""
        return bool(self.raw or self.tokens)

    @property
    def runnable(self) -> RunnableModel:
        return runnable(self.model, self.options, self.num_ctx, self.settings)

    @property
    def room(self) -> int:
        """How many tokens the rendered prompt may have."""
        return self.num_ctx - len(self.context)


def chat_work(model: Model, request: ChatRequest, settings: Settings) -> Work:
    """
    Raises:
        BadInput: a schema that is too large or makes no sense.
        CapabilityMissing: the model cannot chat, think, see, or call tools, and is asked to. A
            call that is required needs no such model: its tools are described in a system message.
        InvalidOption: a parameter stored with the model has the wrong type.
    """
    think = _think(model, request)
    _require_completion(model, f'"{request.model}" does not support chat')
    tools = () if request.tool_choice.mode is ToolMode.NONE else request.tools
    check_schemas(request.format, tools)
    shows_tools = Capability.TOOLS in model.capabilities
    if tools and not shows_tools and request.tool_choice.mode is not ToolMode.REQUIRED:
        raise _missing(model, Capability.TOOLS)
    check_images(model, [image for message in request.messages for image in message.images])
    options = model.options.merge(request.options)
    messages = _chat_messages(model, request) if request.messages else ()
    if tools and messages and not shows_tools:
        messages = with_tools_described(messages, tools)
    return Work(
        request=request,
        model=model,
        options=options,
        settings=settings,
        num_ctx=window(model, options, settings, _least(model)),
        think=think,
        messages=messages,
        tools=tools,
        shown_tools=tools if shows_tools else (),
    )


def generate_work(model: Model, request: GenerateRequest, settings: Settings) -> Work:
    """
    Raises:
        BadInput: raw together with what needs a template.
        CapabilityMissing: the model cannot complete, think, see or insert, and is asked to.
        InvalidOption: a parameter stored with the model has the wrong type.
    """
    if request.raw and (request.template or request.system or request.context):
        raise BadInput("raw mode does not support template, system, or context")
    check_schemas(request.format)
    think = _think(model, request)
    _require_completion(model, f'"{request.model}" does not support generate')
    if request.suffix and Capability.INSERT not in model.capabilities:
        raise _missing(model, Capability.INSERT)
    check_images(model, request.images)
    is_rendered = bool(request.prompt or request.images) and not request.raw
    options = model.options.merge(request.options)
    return Work(
        request=request,
        model=model,
        options=options,
        settings=settings,
        num_ctx=window(model, options, settings, _least(model)),
        think=think,
        messages=_generate_messages(model, request) if is_rendered else (),
        suffix="" if request.raw else request.suffix,
        template=request.template,
        raw=request.prompt if request.raw else "",
        raw_images=request.images if request.raw else (),
        tokens=request.tokens,
        echo=request.echo,
        context=request.context,
        wants_context=not (request.raw or request.tokens),
    )


def to_runner(
    work: Work, prompt: Prompt, choice: Choice = VERBATIM, *, add_special_tokens: bool
) -> Generate:
    """The message that has the runner write the reply; its id is the sender's to choose."""
    options, request = work.options, work.request
    return Generate(
        id=0,
        prompt=prompt.text,
        num_ctx=work.num_ctx,
        sampling=options.sampling(),
        context=list(work.context or work.tokens),
        add_special_tokens=add_special_tokens,
        num_predict=_num_predict(options.num_predict, work.num_ctx),
        num_keep=DEFAULT_NUM_KEEP if options.num_keep is None else options.num_keep,
        num_draft=-1 if options.draft_num_predict is None else options.draft_num_predict,
        shift=_shift(work),
        truncate=request.truncate and not request.keeps_messages_whole,
        stop=list(options.stop or ()),
        adapters=list(own_adapters(work.model) if work.adapters is None else work.adapters),
        want_context=work.wants_context,
        echo=work.echo,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        logit_bias=dict(request.logit_bias),
        grammar=_grammar(work, choice),
        images=list(prompt.images),
        shown_tokens=list(choice.special_tokens),
    )


def own_adapters(model: Model, scale: float = 1.0) -> tuple[Adapter, ...]:
    """The adapters of a stored model, each to its scale times `scale`."""
    return tuple(Adapter(_paths(files), own * scale) for files, own in model.scaled_adapters)


def tool_choice(work: Work) -> ToolChoice:
    return work.request.tool_choice if isinstance(work.request, ChatRequest) else ToolChoice()


def _grammar(work: Work, choice: Choice) -> Grammar | None:
    """What the reply is held to."""
    found = reply_grammar(choice.shape, work.request.format, work.tools, tool_choice(work))
    if found is None:
        return None
    schemas = tuple(Schema(name, json.dumps(schema)) for name, schema in found.schemas)
    return Grammar(found.source, schemas, found.tags, found.is_optional)


def runnable(model: Model, options: Options, num_ctx: int, settings: Settings) -> RunnableModel:
    """What the pool needs to know of a model. Without a GPU, all layers are on the CPU anyway."""
    num_gpu = max(options.num_gpu, -1) if options.num_gpu is not None and may_have_gpu() else -1
    main_gpu = max(options.main_gpu or 0, 0) if may_have_gpu() else 0
    return RunnableModel(
        model.name,
        model.weights_key,
        _paths(model.files),
        num_ctx,
        draft_files=_paths({GGUF_NAME: model.draft} if model.draft else {}),
        quantize=options.quantize or "",
        num_gpu=num_gpu,
        main_gpu=main_gpu,
        num_threads=max(options.num_thread or 0, 0),
        needed_bytes=needed_bytes(model, options.quantize or "", num_ctx, settings),
    )


def _think(model: Model, request: InferenceRequest) -> bool | str | None:
    """What the template is told of thinking: a model that can think does, unless told not to."""
    if Capability.THINKING in model.capabilities:
        return True if request.think is None else request.think
    if request.think and request.think_if_able:
        return None
    if request.think:
        raise CapabilityMissing(f'"{request.model}" does not support thinking')
    return request.think


def _require_completion(model: Model, text: str) -> None:
    """Weights that cannot be read have no architecture; loading them tells what is wrong."""
    if Capability.COMPLETION not in model.capabilities and model.architecture:
        raise CapabilityMissing(text)


def _missing(model: Model, capability: Capability) -> CapabilityMissing:
    return CapabilityMissing(f"{model.name.full} does not support {capability}")


def _least(model: Model) -> int:
    """The smallest window that a request may ask for (spec/scheduler.md section 2)."""
    if Capability.VISION not in model.capabilities:
        return MIN_NUM_CTX
    return min(MIN_NUM_CTX_OF_SEEING, model.context_length or MIN_NUM_CTX_OF_SEEING)


def window(model: Model, options: Options, settings: Settings, least: int = MIN_NUM_CTX) -> int:
    """How many tokens a request may use: what is asked for, up to what the model was made for."""
    wanted = options.num_ctx or settings.context_length or DEFAULT_NUM_CTX
    trained = model.context_length or wanted
    if options.num_ctx and wanted > trained:
        _log.info(
            "num_ctx is above the trained length, which is used instead "
            "model=%s num_ctx=%d trained=%d",
            model.name,
            wanted,
            trained,
        )
    return max(least, min(wanted, trained))


def _chat_messages(model: Model, request: ChatRequest) -> tuple[Message, ...]:
    """The model's own messages, then the request's, behind a system message."""
    has_system = request.messages[0].role == "system"
    messages = (*model.messages, *request.messages)
    if model.architecture.startswith("qwen3") or model.name.model == "deepseek-r1":
        messages = _without_old_thoughts(messages)
    return (*_system("" if has_system else model.system), *messages)


def _without_old_thoughts(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """What the assistant thought before the last turn of the user, as clients send it back.

    These families were trained without it. Their templates in Jinja see to it themselves.
    """
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    last = users[-1] if users else 0
    return tuple(
        replace(message, content=_after_thinking(message.content))
        if message.role == "assistant" and index < last
        else message
        for index, message in enumerate(messages)
    )


def _after_thinking(text: str) -> str:
    _, closing, answer = text.partition("</think>")
    return answer.lstrip() if closing and text.lstrip().startswith("<think>") else text


def _generate_messages(model: Model, request: GenerateRequest) -> tuple[Message, ...]:
    """A prompt as one turn of a user; `context` stands for what was said before."""
    user = Message("user", request.prompt, images=request.images)
    if request.suffix:
        return (user,)
    before = () if request.context else model.messages
    return (*_system(request.system or model.system), *before, user)


def _system(text: str) -> tuple[Message, ...]:
    return (Message("system", text),) if text else ()


def _num_predict(wanted: int | None, num_ctx: int) -> int:
    most = MAX_WINDOWS * num_ctx
    return most if wanted is None or wanted < 0 else min(wanted, most)


def _shift(work: Work) -> bool:
    """DeepSeek 2's attention cannot drop tokens from its cache (spec/scheduler.md section 7)."""
    shift = work.request.shift
    return work.model.architecture != "deepseek2" if shift is None else shift


def _paths(files: Mapping[str, Path]) -> Files:
    return {name: str(path) for name, path in files.items()}
