"""Messages of chat completions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from olla.api.openai_fields import parse_body
from olla.api.openai_messages import messages_of
from olla.errors import BadInput
from olla.messages import Message, ToolCall

PIXEL = base64.b64encode(b"pixel").decode()
TEXT = {"type": "text", "text": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}


def _read(*messages: Any) -> tuple[Message, ...]:
    return messages_of(parse_body(json.dumps({"messages": messages}).encode(), "X"))


def _image(url: object) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": url}]}


def test_a_text_is_a_message() -> None:
    assert _read({"role": "User", "content": "Hi"}) == (Message("user", "Hi"),)


def test_a_developer_speaks_as_the_system() -> None:
    assert _read({"role": "developer", "content": "x"}) == (Message("system", "x"),)


def test_other_roles_pass_through() -> None:
    assert _read({"role": "ipython", "content": "x"}) == (Message("ipython", "x"),)


def test_reasoning_is_kept() -> None:
    (message,) = _read({"role": "assistant", "content": "4", "reasoning": "2 + 2"})

    assert message == Message("assistant", "4", thinking="2 + 2")


def test_the_parts_of_a_message_stay_one_message() -> None:
    image = _image({"url": f"data:image/png;base64,{PIXEL}"})["content"][0]  # type: ignore[index]

    assert _read({"role": "user", "content": [TEXT, TEXT, image, TEXT, image]}) == (
        Message("user", "a\n\na[img]a[img]", images=(b"pixel", b"pixel")),
    )


@pytest.mark.parametrize("kind", ["image/jpeg", "image/jpg", "image/png", "image/webp", ""])
@pytest.mark.parametrize("is_plain", [True, False])
def test_images_are_data_uris(kind: str, is_plain: bool) -> None:
    url = f"data:{kind};base64,{PIXEL}"

    (message,) = _read(_image(url if is_plain else {"url": url, "detail": "low"}))

    assert message.images == (b"pixel",)


def test_calls_are_read_with_their_arguments_in_order() -> None:
    (message,) = _read({"role": "assistant", "content": None, "tool_calls": [CALL]})

    assert message == Message("assistant", tool_calls=(ToolCall("f", {"b": 1, "a": 2}, "c1"),))
    assert list(message.tool_calls[0].arguments) == ["b", "a"]


def test_calls_may_come_with_text() -> None:
    (message,) = _read({"role": "assistant", "content": [TEXT], "tool_calls": [CALL]})

    assert (message.content, len(message.tool_calls)) == ("a", 1)


def test_half_a_surrogate_in_arguments_is_replaced() -> None:
    function = {"name": "f", "arguments": '{"a": "\\ud800"}'}

    (message,) = _read({"role": "assistant", "tool_calls": [{"function": function}]})

    assert message.tool_calls[0].arguments == {"a": "\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("content", ["22", [{"type": "text", "text": "22"}]])
def test_a_result_has_the_name_of_the_latest_call_with_its_id(content: object) -> None:
    older = {**CALL, "function": {"name": "old", "arguments": "{}"}}
    *_, result = _read(
        {"role": "assistant", "tool_calls": [older]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": content},
    )

    assert result == Message("tool", "22", tool_name="f", tool_call_id="c1")


def test_a_result_may_name_its_tool() -> None:
    *_, result = _read(
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "g", "content": "22"},
    )

    assert result.tool_name == "g"


def test_a_result_of_no_known_call_has_no_name() -> None:
    assert _read({"role": "tool", "tool_call_id": "c9", "content": "x"})[0].tool_name == ""


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": None}, "invalid message content type: <nil>"),
        ({"role": "user"}, "invalid message content type: <nil>"),
        ({"role": "user", "content": 1}, "invalid message content type: float64"),
        ({"role": "user", "content": True}, "invalid message content type: bool"),
        ({"content": {}}, "invalid message content type: map[string]interface {}"),
        ({"content": [{"type": "video"}]}, "invalid message format"),
        ({"content": [{"type": "text"}]}, "invalid message format"),
        ({"content": [{"type": "text", "text": 1}]}, "invalid message format"),
        ({"content": ["text"]}, "invalid message format"),
        (_image({}), "invalid message format"),
        (_image({"url": 1}), "invalid message format"),
        (_image(""), "invalid image input"),
        (_image("data:image/gif;base64,AAAA"), "invalid image input"),
        (_image("data:image/png;base64,A"), "invalid image input"),
        (_image("data:image/png;base64,\N{EURO SIGN}"), "invalid image input"),
        (_image("data:image/png,AAAA"), "invalid image input"),
        (_image("file:///etc/passwd"), "invalid image input"),
        (
            _image("https://example.com/a.png"),
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]},
            "input_audio is not supported by this server; send text or images",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(message: object, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _read(message)

    assert str(caught.value) == text


@pytest.mark.parametrize(
    "arguments", ["", "{", "[]", "null", "1", "{} {}", '{"a": NaN}', "[" * 100_000]
)
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}

    with pytest.raises(BadInput) as caught:
        _read({"role": "assistant", "tool_calls": [call]})

    assert str(caught.value) == "invalid tool call arguments"


@pytest.mark.parametrize("body", [b"{}", b'{"messages": []}', b'{"messages": null}'])
def test_a_conversation_has_messages(body: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        messages_of(parse_body(body, "X"))

    assert str(caught.value) == "[] is too short - 'messages'"
