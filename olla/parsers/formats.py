"""ReplyFormat: how a family of models writes its replies; and the tables of all that are known.

A model names its format in its config (PARSER), or its architecture or chat template shows it.
Knows no requests. Adding a format is a module and a line in these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from olla.parsers.base import OutputParser, ToolCallFormat, Tools
from olla.parsers.cohere import COHERE
from olla.parsers.deepseek3 import DEEPSEEK3
from olla.parsers.gemma4 import FUNCTIONGEMMA, GEMMA4
from olla.parsers.glm import GLM
from olla.parsers.llama3 import LLAMA3_FORMAT, PYTHON_TAG, LlamaCalls
from olla.parsers.ministral import MINISTRAL, MISTRAL
from olla.parsers.pythonic import LFM2, OLMO3
from olla.parsers.qwen3 import QWEN3
from olla.parsers.qwen3_coder import QWEN3_CODER
from olla.parsers.tagged import CallSyntax, TaggedCalls
from olla.parsers.thinking import ThinkingTags


@dataclass(frozen=True, slots=True)
class CallFormat:
    """`special_tokens`: texts that may be special tokens, and which the parser has to see."""

    parser: Callable[[Tools], OutputParser]
    format: ToolCallFormat | None
    special_tokens: tuple[str, ...]
    ends_thinking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """None is "has no such thing". `always`: its tags are there whatever was asked for."""

    thinking: ThinkingTags | None = None
    calls: CallFormat | None = None
    always: bool = False
    is_harmony: bool = False


def _tagged(syntax: CallSyntax) -> CallFormat:
    marks = [mark for quote in syntax.quotes for mark in (quote.opening, quote.closing)]
    separator = syntax.format.separator if syntax.format else ""
    tokens = (syntax.begin, syntax.end, separator, *syntax.ignored, *syntax.hidden, *marks)
    return CallFormat(
        lambda tools: TaggedCalls(syntax, tools),
        syntax.format,
        tuple(dict.fromkeys(token for token in tokens if len(token) > 1)),
        (syntax.begin,),
    )


_THINK = ThinkingTags("<think>", "</think>")
_MISTRAL_THINK = ThinkingTags("[THINK]", "[/THINK]", is_anywhere=True)
_GEMMA_THINK = ThinkingTags("<|channel>thought", "<channel|>", is_anywhere=True)
_COHERE_THINK = ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>", is_anywhere=True)
_SEED_THINK = ThinkingTags("<seed:think>", "</seed:think>")

_LLAMA3 = CallFormat(LlamaCalls, LLAMA3_FORMAT, (PYTHON_TAG,))

_QWEN3 = ReplyFormat(_THINK, _tagged(QWEN3))
_QWEN35 = ReplyFormat(_THINK, _tagged(QWEN3_CODER))
_DEEPSEEK3 = ReplyFormat(_THINK, _tagged(DEEPSEEK3))
_GLM = ReplyFormat(_THINK, _tagged(GLM))
_LFM2 = ReplyFormat(_THINK, _tagged(LFM2))
_GEMMA4 = ReplyFormat(_GEMMA_THINK, _tagged(GEMMA4), always=True)
_HARMONY = ReplyFormat(always=True, is_harmony=True)
_BY_TEMPLATE = ReplyFormat()

PARSERS = {
    "passthrough": ReplyFormat(),
    "qwen3": _QWEN3,
    "qwen3-thinking": _QWEN3,
    "qwen3-vl-thinking": _QWEN3,
    "qwen3-vl-instruct": ReplyFormat(calls=_tagged(QWEN3)),
    "qwen3-coder": ReplyFormat(calls=_tagged(QWEN3_CODER)),
    "qwen3.5": _QWEN35,
    "nemotron-3-nano": _QWEN35,
    "nemotron-3.5-nano": _QWEN35,
    "ministral": ReplyFormat(_MISTRAL_THINK, _tagged(MINISTRAL), always=True),
    "cogito": _DEEPSEEK3,
    "deepseek3": _DEEPSEEK3,
    "olmo3": ReplyFormat(calls=_tagged(OLMO3)),
    "olmo3-think": ReplyFormat(_THINK, _tagged(OLMO3)),
    "functiongemma": ReplyFormat(calls=_tagged(FUNCTIONGEMMA)),
    "glm-4.7": _GLM,
    "glm-ocr": _GLM,
    "laguna": _GLM,
    "poolside-v1": _GLM,
    "gemma4": _GEMMA4,
    "gemma4-no-thinking": ReplyFormat(calls=_tagged(GEMMA4)),
    "lfm2": _LFM2,
    "lfm2-thinking": _LFM2,
    "cohere": ReplyFormat(_COHERE_THINK, _tagged(COHERE), always=True),
    "harmony": _HARMONY,
}
"""What PARSER may say."""

BY_TEMPLATE = frozenset({"ornith", "glimmer"})
"""Parsers of Ollama's whose formats are written down nowhere: the template has to show them."""

ARCHITECTURES = {
    "gptoss": _HARMONY,
    "gpt-oss": _HARMONY,
    "gpt_oss": _HARMONY,
    "gemma4": _GEMMA4,
    "laguna": _GLM,
    "nemotron_h": _QWEN35,
    "nemotron_h_moe": _QWEN35,
}

# What a chat template has in it -> how its model writes calls; the first that is there counts.
_CALLS_BY_MARK: tuple[tuple[str, CallFormat], ...] = (
    ("<|tool_call>", _tagged(GEMMA4)),
    ("<start_function_call>", _tagged(FUNCTIONGEMMA)),
    ("<｜tool▁calls▁begin｜>", _tagged(DEEPSEEK3)),
    ("<|START_ACTION|>", _tagged(COHERE)),
    ("<|tool_call_start|>", _tagged(LFM2)),
    ("<function_calls>", _tagged(OLMO3)),
    ("<arg_key>", _tagged(GLM)),
    ("<function=", _tagged(QWEN3_CODER)),
    ("[ARGS]", _tagged(MINISTRAL)),
    ("[TOOL_CALLS]", _tagged(MISTRAL)),
    ("<|python_tag|>", _LLAMA3),
    ('{"name": function name, "parameters":', _LLAMA3),
    ("<tool_call>", _tagged(QWEN3)),
)
_THINKING = (_GEMMA_THINK, _COHERE_THINK, _MISTRAL_THINK, _SEED_THINK, _THINK)


def detect(template: str) -> ReplyFormat:
    """How a model with this chat template writes its replies, as far as the template shows it."""
    if "<|channel|>" in template and "<|start|>" in template:
        return _HARMONY
    thinking = next((tags for tags in _THINKING if _writes(template, tags)), None)
    calls = next((calls for mark, calls in _CALLS_BY_MARK if mark in template), None)
    return ReplyFormat(thinking, calls, always=_is_always(thinking))


def _writes(template: str, tags: ThinkingTags) -> bool:
    """Some templates have only one of the tags: the model writes the other."""
    return tags.closing in template or tags.opening in template


def _is_always(thinking: ThinkingTags | None) -> bool:
    """Tags that are tokens of their own mean nothing else, and would show in the content."""
    return thinking is not None and thinking.is_anywhere
