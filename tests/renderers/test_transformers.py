"""Prompts equal those of transformers, whose renderer is the reference."""

from __future__ import annotations

from typing import Any

import pytest

from olla.messages import Message, Tool, ToolCall
from olla.renderers.conversation import Conversation
from olla.renderers.jinja import JinjaTemplate
from tests.renderers.templates import ALL

SCHEMA = {
    "type": "object",
    "properties": {"città": {"type": "string", "description": "<b>where</b> & when"}},
    "required": ["città"],
}
TOOL = Tool("get_weather", "Get the weather", SCHEMA)
CALL = ToolCall("get_weather", {"città": "Łódź", "days": 3}, id="call_1")

CONVERSATIONS = {
    "one turn": (Message("user", "Why is the sky blue?"),),
    "system": (Message("system", "Be brief."), Message("user", "  Hi\n\n")),
    "turns": (
        Message("user", "a < b & c"),
        Message("assistant", "<think>\nhm\n</think>\n\nYes.", thinking="hm"),
        Message("user", "日本語 🎉 'quotes' \"too\""),
    ),
    "tools": (
        Message("user", "Weather?"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "12 C", tool_name="get_weather", tool_call_id="call_1"),
    ),
    "prefill": (Message("user", "Hi"), Message("assistant", "Well, ")),
}


def _as_dict(message: Message) -> dict[str, Any]:
    values: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        values["reasoning_content"] = message.thinking
    if message.tool_calls:
        call = message.tool_calls[0]
        function = {"name": call.name, "arguments": dict(call.arguments)}
        values["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    if message.role == "tool":
        values |= {"name": message.tool_name, "tool_call_id": message.tool_call_id}
    return values


def _reference(template: str, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    is_continued = messages[-1].role == "assistant"
    functions = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]
    (text,), _ = render_jinja_template(
        conversations=[[_as_dict(message) for message in messages]],
        tools=functions or None,
        chat_template=template,
        continue_final_message=is_continued,
        add_generation_prompt=not is_continued,
        bos_token="<s>",
        eos_token="</s>",
    )
    return str(text)


@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["no tools", "one tool"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
@pytest.mark.parametrize("template", ALL.values(), ids=ALL.keys())
def test_the_prompt_is_the_one_transformers_writes(
    template: str, messages: tuple[Message, ...], tools: tuple[Tool, ...]
) -> None:
    conversation = Conversation(messages, tools, bos_token="<s>", eos_token="</s>")

    text = JinjaTemplate(template).render(conversation)

    assert text == _reference(template, messages, tools)
