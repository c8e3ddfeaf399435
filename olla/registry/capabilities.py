"""Capability: what a model can do, judged by its templates (spec/modelfile.md section 8).

Looks at texts and at what headers say; renders nothing. Invariant: reading a template takes time
in proportion to its length, since models bring their own and a search in `re` cannot be stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from olla.registry.weights import WeightsHeader

_SPLITS_AT_THINKING = re.compile(r"split\(\s*['\"]</think>['\"]\s*\)")
_GO_FIELD = re.compile(r"\.([A-Za-z]+)")

_PLAIN = re.compile(r"\{\{-?\s*\.Prompt\s*-?\}\}")
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
    if writes_thinking or cuts_thinking:
        yield Capability.THINKING


def is_go_template(text: str) -> bool:
    """Whether this is a template in Go's language that is more than `{{ .Prompt }}`."""
    if _PLAIN.fullmatch(text) or "{%" in text:
        return False
    return any(
        _GO_START.match(action) or _GO_ARGUMENT.search(action)
        for action in _ACTION_START.findall(text)
    )


def go_capabilities(template: str) -> Iterator[Capability]:
    actions = " ".join(part.partition("}}")[0] for part in template.split("{{")[1:])
    fields = {name.lower() for name in _GO_FIELD.findall(actions)}
    if "tools" in fields:
        yield Capability.TOOLS
    if "suffix" in fields:
        yield Capability.INSERT
    if "thinking" in fields:
        yield Capability.THINKING
