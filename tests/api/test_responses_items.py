"""Input items become turns of a conversation."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from olla.api.responses_items import messages_from_items
from olla.errors import BadInput
from olla.messages import Message, ToolCall

PNG = b"\x89PNG"
USER = {"role": "user", "content": "u"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
THOUGHT = {"type": "reasoning", "summary": [], "encrypted_content": "hm"}


def _image(url: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_image", "image_url": url}]}


def _call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": "f",
        "arguments": '{"x": 1}',
        **fields,
    }


def _output(call_id: str, output: object = "r") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _read(*items: dict[str, Any], instructions: str = "") -> list[Message]:
    return list(messages_from_items(instructions, items))


def _called(*ids: str, **fields: Any) -> Message:
    calls = tuple(ToolCall("f", {"x": 1}, call_id) for call_id in ids)
    return Message("assistant", tool_calls=calls, **fields)


def test_a_message_is_one_with_or_without_its_type() -> None:
    assert _read(USER) == _read({**USER, "type": "message"}) == [Message("user", "u")]


def test_parts_are_joined() -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": _data_uri("image/png")},
        {"type": "input_text", "text": "b"},
    ]

    assert _read({"role": "user", "content": parts}) == [Message("user", "a[img]b", images=(PNG,))]


def _data_uri(media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(PNG).decode()}"


def test_developers_speak_as_the_system_in_one_message_with_the_instructions() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "d"}]}

    messages = _read(developer, USER, developer, instructions="i")

    assert messages == [Message("system", "i\n\nd"), Message("user", "u"), Message("system", "d")]


def test_what_was_thought_goes_with_what_is_said_or_called_next() -> None:
    assert _read(THOUGHT, SAID) == [Message("assistant", "a", "hm")]
    assert _read(THOUGHT, _call("1")) == [_called("1", thinking="hm")]
    assert _read(USER, THOUGHT)[1:] == [Message("assistant", thinking="hm")]


def test_a_summary_stands_for_thinking_that_is_not_there() -> None:
    summary = [{"type": "summary_text", "text": "s"}]

    assert _read({"type": "reasoning", "summary": summary}, SAID)[0].thinking == "s"


def test_calls_in_a_row_are_one_turn_with_what_was_said_before() -> None:
    messages = _read(SAID, _call("1"), _call("2"), _output("1"), _output("2"), _call("3"))

    assert messages == [
        _called("1", "2", content="a"),
        Message("tool", "r", tool_name="f", tool_call_id="1"),
        Message("tool", "r", tool_name="f", tool_call_id="2"),
        _called("3"),
    ]


def test_what_is_said_between_a_call_and_its_result_is_one_turn_with_the_call() -> None:
    assert _read(_call("1"), SAID, _output("1"))[0] == _called("1", content="a")
    assert [m.role for m in _read(_call("1"), SAID, _output("2"))] == [
        "assistant",
        "assistant",
        "tool",
    ]


def test_results_are_texts_or_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}]

    assert _read(_output("1", parts))[0].content == "ab"


def test_calls_keep_their_namespace() -> None:
    (message,) = _read(_call("1", namespace="mcp__git"))

    assert message.tool_calls[0].name == "mcp__git.f"


def test_calls_may_have_no_arguments() -> None:
    assert _read(_call("1", arguments=""))[0].tool_calls[0].arguments == {}


def test_searches_of_the_web_are_skipped() -> None:
    assert _read({"type": "web_search_call", "id": "ws_1"}, USER) == [Message("user", "u")]


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/jpg", "image/webp", ""])
def test_images_come_as_data(media_type: str) -> None:
    assert _read(_image(_data_uri(media_type)))[0].images == (PNG,)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"type": "item_reference", "id": "x"}, 'input[0]: unknown input item type: "item_re'),
        ({}, 'input[0]: unknown input item type: ""'),
        ({"role": "user", "content": [{"type": "input_x"}]}, "unknown content type: input_x"),
        (
            {"role": "user", "content": [{"type": "input_file"}]},
            "file inputs are not currently supported",
        ),
        (_image("https://x/y.png"), "image URLs are not currently supported, please use base64"),
        (_image("data:image/tiff;base64,aa"), "invalid image input"),
        (_image("data:image/png;base64,?"), "invalid image input"),
        (_call("1", arguments="{"), "failed to parse function call arguments: "),
        (_call("1", arguments="[]"), "failed to parse function call arguments: "),
        (_call("1", arguments='{"a":' * 10**5), "failed to parse function call arguments: "),
        ({"role": "user", "content": 1}, "cannot unmarshal number"),
    ],
)
def test_items_that_cannot_be_read_are_refused(item: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _read(item)

    assert text in str(caught.value)
