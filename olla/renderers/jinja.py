"""JinjaTemplate: a chat template in Jinja, as models carry them, and the variables it sees.

The variables are those of transformers' `apply_chat_template`, so that both write the same
prompt. A conversation that ends with the assistant's turn is continued: the turn is rendered
with a mark at its end and the prompt is cut there, as `continue_final_message` does. Templates
that know parts of content get images as such; for others they are tags in the text, as in Go's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock
from typing import Any, TypeVar

import jinja2

from olla.errors import TemplateError
from olla.messages import Message, Tool, ToolCall
from olla.renderers.conversation import Conversation
from olla.renderers.images import content_parts, tag_images, takes_parts
from olla.renderers.limits import LimitReached, Limits
from olla.renderers.sandbox import Sandbox

MAX_TEMPLATE_CHARS = 128 * 1024

# Ends with a space: where the template trims the turn, the mark loses it too, and shows that.
_MARK = "<|here the reply goes on|> "
_T = TypeVar("_T")


class JinjaTemplate:
    """Safe to use from several threads; renders one at a time."""

    add_special_tokens = False

    def __init__(self, text: str) -> None:
        """Compile a template.

        Raises:
            TemplateError: it is too long, does not parse, or takes too long to.
        """
        if len(text) > MAX_TEMPLATE_CHARS:
            raise TemplateError(
                f"template error: it is longer than {MAX_TEMPLATE_CHARS} characters"
            )
        self._lock = Lock()
        self._takes_parts = takes_parts(text)
        self._sandbox = Sandbox()
        self._template = self._within_limits(lambda: self._sandbox.from_string(text))

    def render(self, conversation: Conversation) -> str:
        """Write the prompt.

        Raises:
            TemplateError: the template refuses the messages, fails, or runs past its limits.
        """
        if not self._takes_parts:
            conversation = _with_tags(conversation)
        messages = conversation.messages
        if conversation.suffix:
            raise TemplateError(
                "template error: a template in Jinja has no place for a suffix; use one in Go's "
                "language, with .Prompt and .Suffix"
            )
        if not messages or messages[-1].role != "assistant" or messages[-1].tool_calls:
            return self._render(conversation, is_continued=False)
        last = replace(messages[-1], content=messages[-1].content + _MARK)
        text = self._render(
            replace(conversation, messages=(*messages[:-1], last)), is_continued=True
        )
        return _cut_at_mark(text)

    def _render(self, conversation: Conversation, *, is_continued: bool) -> str:
        variables = _variables(conversation)
        return self._within_limits(
            lambda: self._template.render(variables, add_generation_prompt=not is_continued)
        )

    def _within_limits(self, work: Callable[[], _T]) -> _T:
        with self._lock:
            self._sandbox.limits = limits = Limits()
            try:
                with limits.watch():
                    return work()
            except (LimitReached, jinja2.TemplateError, *_FAILURES) as error:
                raise TemplateError(f"template error: {_describe(error)}") from error


# What expressions in a template raise, beyond Jinja's own errors.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def _describe(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    return text


def _with_tags(conversation: Conversation) -> Conversation:
    """All that the template sees of images is tags in the text."""
    tagged = (replace(turn, images=()) for turn in tag_images(conversation.messages))
    return replace(conversation, messages=tuple(tagged))


def _cut_at_mark(text: str) -> str:
    place = text.rfind(_MARK.rstrip())
    if place < 0:
        raise TemplateError("template error: it leaves out the assistant's turn to be continued")
    is_trimmed = not text.startswith(_MARK, place)
    return text[:place].rstrip() if is_trimmed else text[:place]


def _variables(conversation: Conversation) -> Mapping[str, Any]:
    variables: dict[str, Any] = {
        "messages": [_message(message) for message in conversation.messages],
        "tools": [_tool(tool) for tool in conversation.tools] or None,
        "documents": None,
    }
    if conversation.bos_token:
        variables["bos_token"] = conversation.bos_token
    if conversation.eos_token:
        variables["eos_token"] = conversation.eos_token
    if conversation.think is not None:
        variables["enable_thinking"] = bool(conversation.think)
    if conversation.think:
        variables["reasoning_effort"] = _effort(conversation.think)
    return variables


def _effort(think: bool | str) -> str:
    return think if isinstance(think, str) else "medium"


def _message(message: Message) -> dict[str, Any]:
    content = content_parts(message) if message.images else message.content
    values: dict[str, Any] = {"role": message.role, "content": content}
    if message.thinking:
        values |= {"thinking": message.thinking, "reasoning_content": message.thinking}
    if message.tool_calls:
        values["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_name:
        values["name"] = message.tool_name
    if message.tool_call_id:
        values["tool_call_id"] = message.tool_call_id
    return values


def _tool_call(call: ToolCall) -> dict[str, Any]:
    values: dict[str, Any] = {"id": call.id} if call.id else {}
    function = {"name": call.name, "arguments": call.arguments}
    return values | {"type": "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}
