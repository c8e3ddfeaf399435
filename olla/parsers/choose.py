"""choose(): the parser for one reply, and what others must know about it.

The order: the PARSER that the model names, its architecture, what its chat template shows, and
what an analysis of a Go template found (spec/modelfile.md section 6). A named parser always looks
for thinking and calls; one that was found out looks for thinking if the model was to think, and
for calls if there are tools on offer. A prompt that ends with the opening tag has begun the
thinking, whatever was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from olla.errors import BadInput
from olla.gotemplate.analysis import thinking_tags, tool_tag
from olla.parsers.base import Chain, FirstCall, OutputParser, Tools, Verbatim
from olla.parsers.formats import ARCHITECTURES, BY_TEMPLATE, PARSERS, ReplyFormat, detect
from olla.parsers.generic import GenericCalls
from olla.parsers.harmony import HARMONY_TAGS, HarmonyParser, is_in_message
from olla.parsers.reply_grammar import ReplyShape
from olla.parsers.required import RequiredCall
from olla.parsers.thinking import ThinkingParser, ThinkingTags
from olla.registry.model import Model, is_go_template
from olla.requests import ToolChoice, ToolMode


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What is known when the prompt is written. `template` is the one that wrote it."""

    prompt: str
    template: str
    tools: Tools = ()
    think: bool | str | None = None
    tool_choice: ToolChoice = field(default_factory=ToolChoice)

    @property
    def requires_call(self) -> bool:
        return self.tool_choice.mode is ToolMode.REQUIRED


@dataclass(frozen=True, slots=True)
class GoTags:
    """What a Go template shows of its model's replies; None and "" are nothing."""

    thinking: tuple[str, str] | None = None
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A parser for one reply.

    `shape`: how the model may write this reply, for who wants to hold it to something.
    `special_tokens`: texts that may be special tokens of the model, and have to reach the parser.
    """

    parser: OutputParser
    shape: ReplyShape = field(default_factory=ReplyShape)
    special_tokens: tuple[str, ...] = ()


VERBATIM = Choice(Verbatim())


def read_go_tags(template: str) -> GoTags | None:
    """What a template in Go's language shows of replies; None for one in Jinja."""
    if not is_go_template(template):
        return None
    return GoTags(thinking_tags(template), tool_tag(template) or "")


def choose(model: Model, context: ReplyContext, go_tags: GoTags | None = None) -> Choice:
    """
    Raises:
        BadInput: the model names a parser that does not exist.
    """
    choice = _choose(model, context, go_tags)
    if context.tool_choice.parallel or not context.tools:
        return choice
    return replace(choice, parser=FirstCall(choice.parser))


def _choose(model: Model, context: ReplyContext, go_tags: GoTags | None) -> Choice:
    named = _named(model)
    if named is not None:
        return _choice(replace(named, always=True), context)
    found = detect(context.template)
    if go_tags is not None and not found.is_harmony:
        return _generic(go_tags, context)
    return _choice(found, context)


def _required(thinking: ThinkingTags | None, context: ReplyContext) -> Choice:
    """A grammar writes the call, so the model's own way of writing one does not come up."""
    parser = _chain(thinking, RequiredCall(), context)
    return Choice(parser, _shape(thinking, context), _tokens(thinking))


def _harmony(context: ReplyContext) -> Choice:
    is_open = is_in_message(context.prompt)
    if context.requires_call and is_open:
        raise BadInput("this prompt has begun the reply, which cannot become a call any more")
    shape = ReplyShape(is_open=is_open, is_harmony=True)
    return Choice(HarmonyParser(context.tools, context.prompt), shape, HARMONY_TAGS)


def check_parser(name: str) -> None:
    """
    Raises:
        BadInput: no parser has that name.
    """
    if name not in PARSERS and name not in BY_TEMPLATE:
        known = ", ".join(sorted(PARSERS))
        raise BadInput(f'unknown parser "{name}"; PARSER may be one of: {known}')


def _named(model: Model) -> ReplyFormat | None:
    name = model.config.parser
    if name and name not in BY_TEMPLATE:
        check_parser(name)
        return PARSERS[name]
    return ARCHITECTURES.get(model.architecture) or ARCHITECTURES.get(model.config.model_family)


def _choice(reply: ReplyFormat, context: ReplyContext) -> Choice:
    if reply.is_harmony:
        return _harmony(context)
    thinking = _thinking(reply.thinking, context, always=reply.always)
    if context.requires_call:
        return _required(thinking, context)
    calls = reply.calls if reply.always or context.tools else None
    ends = calls.ends_thinking if calls else ()
    return Choice(
        _chain(
            thinking and replace(thinking, ended_by=ends),
            calls.parser(context.tools) if calls else None,
            context,
        ),
        replace(_shape(thinking, context), calls=calls.format if calls else None),
        (*_tokens(thinking), *(calls.special_tokens if calls else ())),
    )


def _generic(tags: GoTags, context: ReplyContext) -> Choice:
    written = ThinkingTags(*tags.thinking) if tags.thinking else None
    thinking = _thinking(written, context, always=False)
    if context.requires_call:
        return _required(thinking, context)
    calls = GenericCalls(tags.tool, context.tools) if tags.tool and context.tools else None
    tool_tokens = (tags.tool,) if calls else ()
    return Choice(
        _chain(thinking, calls, context),
        replace(_shape(thinking, context), generic_tag=tags.tool if calls else ""),
        (*_tokens(thinking), *tool_tokens),
    )


def _chain(
    thinking: ThinkingTags | None, calls: OutputParser | None, context: ReplyContext
) -> OutputParser:
    if thinking is None:
        return calls or Verbatim()
    splitter = ThinkingParser(thinking, starts_inside=_is_open(thinking, context))
    return Chain(splitter, calls or Verbatim())


def _thinking(
    tags: ThinkingTags | None, context: ReplyContext, *, always: bool
) -> ThinkingTags | None:
    """The tags to split at; None if there are none, or they would be content."""
    is_wanted = tags is not None and (always or context.think or _is_open(tags, context))
    return tags if is_wanted else None


def _is_open(tags: ThinkingTags, context: ReplyContext) -> bool:
    return context.prompt.rstrip().endswith(tags.opening)


def _shape(tags: ThinkingTags | None, context: ReplyContext) -> ReplyShape:
    """Of a model that was not to think, the answer begins at once."""
    is_open = tags is not None and _is_open(tags, context)
    return ReplyShape(tags if context.think or is_open else None, is_open)


def _tokens(tags: ThinkingTags | None) -> tuple[str, ...]:
    return (tags.opening_token, tags.closing) if tags else ()
