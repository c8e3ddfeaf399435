"""Prompts of well-known chat formats, as their vendors publish them, written out by hand."""

from __future__ import annotations

import pytest

from olla.gotemplate.analysis import thinking_tags, tool_tag
from olla.messages import Message, Tool, ToolCall
from olla.renderers.conversation import Conversation
from olla.renderers.go import GoTemplate
from tests.renderers import go_families as families

CHAT = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    )
)
TOOL = Tool(
    "weather",
    "Of a <city>",
    {
        "required": ["city"],
        "type": "object",
        "properties": {"city": {"description": "its name", "type": "string"}},
    },
)
TOOL_JSON = (
    '{"type":"function","function":{"name":"weather","description":"Of a \\u003ccity\\u003e",'
    '"parameters":{"type":"object","required":["city"],"properties":{"city":{"type":"string",'
    '"description":"its name"}}}}}'
)
CALLING = Conversation(
    (
        Message("user", "Rain?"),
        Message("assistant", tool_calls=(ToolCall("weather", {"city": "Paris", "a": 1}, "c1"),)),
        Message("tool", "12", tool_name="weather", tool_call_id="c1"),
    ),
    tools=(TOOL,),
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            families.CHATML,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            families.LLAMA3,
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            families.LLAMA31,
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            families.GEMMA,
            "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
            "<start_of_turn>model\nHello<end_of_turn>\n"
            "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            families.PHI3,
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n"
            "<|user|>\nBye<|end|>\n<|assistant|>\n",
        ),
        (
            families.COMMAND_R,
            "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        (
            families.DEEPSEEK_R1,
            "Be brief.<|User|>Hi<|Assistant|>Hello<|end|><|User|>Bye<|Assistant|>",
        ),
        (
            families.GRANITE,
            "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
            "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n"
            "<|start_of_role|>assistant<|end_of_role|>Hello<|end_of_text|>\n"
            "<|start_of_role|>user<|end_of_role|>Bye<|end_of_text|>\n"
            "<|start_of_role|>assistant<|end_of_role|>",
        ),
        (families.MISTRAL, "[INST] Hi[/INST] Hello</s>[INST] Be brief.\n\nBye[/INST]"),
        (
            families.QWEN25,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_a_chat_in_the_vendors_format(template: str, text: str) -> None:
    assert GoTemplate(template).render(CHAT) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            families.QWEN25,
            f"<|im_start|>system\n\n\n# Tools\n\n<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n"
            "<|im_start|>user\nRain?<|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": '
            '{"a":1,"city":"Paris"}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\n12\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            families.MISTRAL,
            '[INST] Rain?[/INST][TOOL_CALLS] [{"name": "weather", "arguments": '
            '{"a":1,"city":"Paris"}}]</s>[TOOL_RESULTS] {"content": 12}[/TOOL_RESULTS]',
        ),
        (
            families.LLAMA31,
            "<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nRain?<|eot_id|>"
            '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "weather", "parameters": '
            '{"a":1,"city":"Paris"}}<|eot_id|>'
            "<|start_header_id|>ipython<|end_header_id|>\n\n12<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            families.GRANITE,
            f"<|start_of_role|>available_tools<|end_of_role|>[{TOOL_JSON}]<|end_of_text|>\n"
            "<|start_of_role|>user<|end_of_role|>Rain?<|end_of_text|>\n"
            '<|start_of_role|>assistant<|end_of_role|><|tool_call|>{"index":0,"name":"weather",'
            '"arguments":{"a":1,"city":"Paris"}}<|end_of_text|>\n'
            "<|start_of_role|>tool_response<|end_of_role|>12<|end_of_text|>\n"
            "<|start_of_role|>assistant<|end_of_role|>",
        ),
    ],
)
def test_tools_calls_and_results_in_the_vendors_format(template: str, text: str) -> None:
    assert GoTemplate(template).render(CALLING) == text


def test_tools_go_before_the_last_question() -> None:
    asking = Conversation(CALLING.messages[:1], tools=(TOOL,))

    assert GoTemplate(families.MISTRAL).render(asking) == (
        f"[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] Rain?[/INST]"
    )
    assert "Functions you may call:\n- weather(city: string)\n\nRain?" in GoTemplate(
        families.LLAMA31
    ).render(asking)


@pytest.mark.parametrize(
    ("think", "end"),
    [(None, "<|Assistant|>"), (True, "<|Assistant|>"),
     (False, "<|Assistant|><think>\n\n</think>\n\n")],
)  # fmt: skip
def test_thinking_can_be_told_to_be_short(think: bool | None, end: str) -> None:
    turn = Conversation((Message("user", "Hi"),), think=think)

    assert GoTemplate(families.DEEPSEEK_R1).render(turn) == f"<|User|>Hi{end}"


def test_a_reply_is_continued_with_its_thinking() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "He", thinking="Greet."))

    text = GoTemplate(families.DEEPSEEK_R1).render(Conversation(turns, think=True))

    assert text == "<|User|>Hi<|Assistant|><think>\nGreet.\n</think>\n\nHe"


@pytest.mark.parametrize(
    ("template", "thinking", "tool"),
    [
        (families.DEEPSEEK_R1, ("<think>", "</think>"), None),
        (families.QWEN25, None, "<tool_call>"),
        (families.MISTRAL, None, "[TOOL_CALLS] ["),
        (families.LLAMA31, None, "{"),
        (families.GRANITE, None, "<|start_of_role|>assistant<|end_of_role|><|tool_call|>"),
        (families.CHATML, None, None),
    ],
)
def test_the_tags_of_a_format_are_found(
    template: str, thinking: tuple[str, str] | None, tool: str | None
) -> None:
    assert (thinking_tags(template), tool_tag(template)) == (thinking, tool)
