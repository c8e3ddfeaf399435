"""Capability: what a model can do, judged by its templates (spec/modelfile.md section 8).

Looks at texts and at what headers say; renders nothing. So it also tells which of its templates a
model is better off with. Invariant: reading a template takes time in proportion to its length,
since models bring their own and a search in `re` cannot be stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from olla.gotemplate.analysis import is_valid, thinking_tags, variables
from olla.registry.weights import WeightsHeader

DEFAULT_TEMPLATE = "{{ .Prompt }}"

_SPLITS_AT_THINKING = re.compile(r"split\(\s*['\"]</think>['\"]\s*\)")
_ACTION_START = re.compile(r"\{{2,}([^{}]*)")
_GO_START = re.compile(
    r"""-?\s*(?:
        [.$`]                                           # a field, a variable, a raw string
      | /\*                                             # a comment
      | (?:if|else|end|with|define|template|block|break|continue)\b
    )""",
    re.VERBOSE,
)
_GO_ARGUMENT = re.compile(r"[\s(][.$][A-Za-z]")  # a field or a variable


class Capability(StrEnum):
    COMPLETION = "completion"
    TOOLS = "tools"
    INSERT = "insert"
    VISION = "vision"
    EMBEDDING = "embedding"
    THINKING = "thinking"
    IMAGE = "image"
    AUDIO = "audio"
    RERANK = "rerank"


# What templates write around thinking, other than <think> and </think>.
_THINKING_MARKS = (
    "[THINK]",
    "<|START_THINKING|>",
    "<|channel>thought",
    "<|channel|>analysis",
    "<seed:think>",
)

# What a parser of that name (PARSER) can read; all others read both.
_PARSERS_THAT_PASS_ALL_ON = frozenset({"", "passthrough"})
_PARSERS_OF_CALLS_ONLY = frozenset(
    {"qwen3-coder", "qwen3-vl-instruct", "olmo3", "functiongemma", "gemma4-no-thinking"}
)


def parser_capabilities(parser: str) -> Iterator[Capability]:
    if parser not in _PARSERS_THAT_PASS_ALL_ON:
        yield Capability.TOOLS
        if parser not in _PARSERS_OF_CALLS_ONLY:
            yield Capability.THINKING


def weights_capabilities(header: WeightsHeader) -> Iterator[Capability]:
    if header.embeds:
        yield Capability.EMBEDDING
    if header.reranks:
        yield Capability.RERANK
    if header.generates:
        yield Capability.COMPLETION
    if header.sees:
        yield Capability.VISION
    if header.hears:
        yield Capability.AUDIO


def jinja_capabilities(template: str) -> Iterator[Capability]:
    if "tools" in template or "tool_call" in template:
        yield Capability.TOOLS
    writes_thinking = "<think>" in template and "</think>" in template
    # A template that cuts the thinking out of old turns itself shows a model that thinks.
    cuts_thinking = _SPLITS_AT_THINKING.search(template) and "reasoning_content" not in template
    has_mark = any(mark in template for mark in _THINKING_MARKS)
    if writes_thinking or cuts_thinking or has_mark:
        yield Capability.THINKING


def is_go_template(text: str) -> bool:
    """Whether this is a template in Go's language, and not in Jinja."""
    return "{%" not in text and any(
        _GO_START.match(action) or _GO_ARGUMENT.search(action)
        for action in _ACTION_START.findall(text)
    )


def go_capabilities(template: str) -> Iterator[Capability]:
    names = variables(template)
    if "tools" in names:
        yield Capability.TOOLS
    if "suffix" in names:
        yield Capability.INSERT
    if thinking_tags(template):
        yield Capability.THINKING


def select_template(template: str, chat_template: str, go_template: bool | None) -> str:
    """The template that writes the prompts of a model (spec/modelfile.md section 6).

    `template` is the model's TEMPLATE, `chat_template` what its files have; "" is none. One in
    Jinja always wins; of one in Go and the files', `go_template` decides, or what they can do.
    """
    if not chat_template or (template and not is_go_template(template)):
        return template or DEFAULT_TEMPLATE
    if go_template is None:
        go_template = not _is_better(chat_template, template)
    return template if template and go_template else chat_template


def _is_better(jinja: str, go: str) -> bool:
    of_jinja, of_go = set(jinja_capabilities(jinja)), set(go_capabilities(go))
    jinja_has_calls = "tool_calls" in jinja  # turns that call tools find their way back into it
    go_has_calls = "toolcalls" in variables(go)
    if len(of_jinja) > len(of_go):
        return jinja_has_calls or not go_has_calls
    if of_jinja == of_go and Capability.TOOLS in of_go and jinja_has_calls and not go_has_calls:
        return True
    return not is_valid(go)
