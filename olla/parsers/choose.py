"""choose(): the parser for one reply, and what others must know about it.

The order: the PARSER that the model names, its architecture, what its chat template shows, and
what an analysis of a Go template found (spec/modelfile.md section 6). A named parser always looks
for thinking and calls; one that was found out looks for thinking if the model was to think, and
for calls if there are tools on offer. A prompt that ends with the opening tag has begun the
thinking, whatever was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from olla.errors import BadInput
from olla.gotemplate.analysis import thinking_tags, tool_tag
from olla.parsers.base import Chain, OutputParser, ToolCallFormat, Tools, Verbatim
from olla.parsers.formats import ARCHITECTURES, BY_TEMPLATE, PARSERS, ReplyFormat, detect
from olla.parsers.generic import GenericCalls
from olla.parsers.harmony import FINAL, HARMONY_TAGS, HarmonyParser
from olla.parsers.required import RequiredCall
from olla.parsers.thinking import ThinkingParser, ThinkingTags
from olla.registry.model import Model, is_go_template


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What is known when the prompt is written. `template` is the one that wrote it."""

    prompt: str
    template: str
    tools: Tools = ()
    think: bool | str | None = None
    requires_call: bool = False


@dataclass(frozen=True, slots=True)
class GoTags:
    """What a Go template shows of its model's replies; None and "" are nothing."""

    thinking: tuple[str, str] | None = None
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A parser for one reply.

    `thinking_close`: the text behind which the answer begins; "" if it begins at once.
    `tool_call_format`: None if calls are not read, or written in no way known.
    `special_tokens`: texts that may be special tokens of the model, and have to reach the parser.
    """

    parser: OutputParser
    thinking_close: str = ""
    tool_call_format: ToolCallFormat | None = None
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
    return Choice(parser, _close(thinking, context), None, _tokens(thinking))


def _named(model: Model) -> ReplyFormat | None:
    name = model.config.parser
    if name and name not in BY_TEMPLATE:
        try:
            return PARSERS[name]
        except KeyError:
            known = ", ".join(sorted(PARSERS))
            raise BadInput(f'unknown parser "{name}"; PARSER may be one of: {known}') from None
    return ARCHITECTURES.get(model.architecture) or ARCHITECTURES.get(model.config.model_family)


def _choice(reply: ReplyFormat, context: ReplyContext) -> Choice:
    if context.requires_call and not reply.is_harmony:
        return _required(_thinking(reply.thinking, context, always=reply.always), context)
    if reply.is_harmony:
        if context.requires_call:
            raise BadInput("this model's replies cannot be held to a call; use tool_choice auto")
        parser = HarmonyParser(context.tools, context.prompt)
        return Choice(parser, FINAL, None, HARMONY_TAGS)
    calls = reply.calls if reply.always or context.tools else None
    thinking = _thinking(reply.thinking, context, always=reply.always)
    ends = calls.ends_thinking if calls else ()
    return Choice(
        _chain(
            thinking and replace(thinking, ended_by=ends),
            calls.parser(context.tools) if calls else None,
            context,
        ),
        _close(thinking, context),
        calls.format if calls else None,
        (*_tokens(thinking), *(calls.special_tokens if calls else ())),
    )


def _generic(tags: GoTags, context: ReplyContext) -> Choice:
    """Its calls follow rules too loose to hold a model to."""
    written = ThinkingTags(*tags.thinking) if tags.thinking else None
    thinking = _thinking(written, context, always=False)
    if context.requires_call:
        return _required(thinking, context)
    calls = GenericCalls(tags.tool, context.tools) if tags.tool and context.tools else None
    tool_tokens = (tags.tool,) if calls else ()
    return Choice(
        _chain(thinking, calls, context),
        _close(thinking, context),
        None,
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


def _close(tags: ThinkingTags | None, context: ReplyContext) -> str:
    if tags is None or not (context.think or _is_open(tags, context)):
        return ""
    return tags.closing


def _tokens(tags: ThinkingTags | None) -> tuple[str, ...]:
    """Of "<|channel>thought" only the start is a token."""
    if tags is None:
        return ()
    opening = tags.opening
    return (opening[: opening.find(">") + 1] or opening, tags.closing)
