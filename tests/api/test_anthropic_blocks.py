"""Content blocks become turns of a conversation."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from olla.api.anthropic_blocks import messages_from_fields, system_from_fields
from olla.api.json_fields import Fields
from olla.errors import BadInput
from olla.messages import Message, ToolCall

IMAGE = b"\x89PNG"
IMAGE_BLOCK = {
    "type": "image",
    "source": {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(IMAGE).decode(),
    },
}
TEXT = {"type": "text", "text": "t"}
CALL = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "r"}


def _messages(*messages: dict[str, Any]) -> list[Message]:
    return list(messages_from_fields(Fields({"messages": list(messages)}, "MessagesRequest")))


def _user(*blocks: dict[str, Any]) -> list[Message]:
    return _messages({"role": "user", "content": list(blocks)})


def _document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


def test_a_string_is_the_content() -> None:
    assert _messages({"role": "User", "content": "hi"}) == [Message("user", "hi")]


def test_texts_and_images_of_a_message_are_one_turn() -> None:
    assert _user(TEXT, IMAGE_BLOCK, TEXT) == [Message("user", "t[img]t", images=(IMAGE,))]


def test_results_come_before_what_a_user_says_and_after_what_others_say() -> None:
    call = {"role": "assistant", "content": [CALL]}
    result = Message("tool", "r", tool_name="f", tool_call_id="1")

    user = _messages(call, {"role": "user", "content": [TEXT, RESULT]})
    other = _messages(call, {"role": "assistant", "content": [RESULT, TEXT]})

    assert user[1:] == [result, Message("user", "t")]
    assert other[1:] == [Message("assistant", "t"), result]


def test_a_turn_of_results_only_is_no_empty_turn() -> None:
    assert [m.role for m in _user(RESULT, RESULT)] == ["tool", "tool"]


def test_results_have_texts_and_images() -> None:
    (message,) = _user({**RESULT, "content": [TEXT, IMAGE_BLOCK, TEXT], "is_error": True})

    assert (message.content, message.images) == ("t[img]t", (IMAGE,))


def test_a_result_may_have_no_content() -> None:
    assert _user({"type": "tool_result", "tool_use_id": "1"})[0].content == ""


def test_thinking_is_taken_back_with_any_signature_or_none() -> None:
    (message,) = _messages(
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "a", "signature": "sig_x"},
                {"type": "redacted_thinking", "data": "zzz"},
                {"type": "thinking", "thinking": "b"},
                CALL,
            ],
        }
    )

    call = ToolCall("f", {"x": 1}, "1")
    assert message == Message("assistant", thinking="ab", tool_calls=(call,))


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (_document(type="text", media_type="text/plain", data="d"), "d"),
        ({**_document(type="text", data="d"), "title": "T", "context": "C"}, "T\nC\nd"),
        (_document(type="content", content="d"), "d"),
        (_document(type="content", content=[TEXT, TEXT]), "tt"),
        ({"type": "search_result", "title": "T", "source": "S", "content": [TEXT]}, "T\nS\nt"),
        ({"type": "tool_reference", "tool_name": "f"}, "f"),
    ],
)
def test_what_holds_text_is_text(block: dict[str, Any], content: str) -> None:
    assert _user(block) == [Message("user", content)]


def test_searches_of_a_server_are_calls_and_results() -> None:
    found = [{"type": "web_search_result", "title": "T", "url": "U", "encrypted_content": "z"}]
    result = {"type": "web_search_tool_result", "tool_use_id": "1"}
    failed = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    use = {**CALL, "type": "server_tool_use", "name": "web_search"}

    messages = _messages(
        {
            "role": "assistant",
            "content": [use, {**result, "content": found}, {**result, "content": failed}],
        }
    )

    assert messages[0].tool_calls[0].name == "web_search"
    assert [m.content for m in messages[1:]] == ["Title: T\nURL: U", "Error: unavailable"]
    assert messages[1].tool_name == "web_search"


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "image", "source": {"type": "url", "url": "http://x"}},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        ({"type": "image"}, "invalid image source"),
        (
            {"type": "image", "source": {"type": "base64", "data": "?"}},
            "invalid base64 image data: ",
        ),
        (_document(type="base64", media_type="application/pdf", data="x"), '"application/pdf"'),
        (_document(type="url", url="http://x"), 'documents of type "url" are not supported'),
        ({"type": "container_upload"}, 'blocks of type "container_upload" are not supported'),
        ({"text": "no type"}, 'content blocks of type "" are not supported'),
        ({"type": "tool_use", "name": "f"}, "tool_use block missing required 'id' field"),
        ({"type": "tool_use", "id": "1"}, "tool_use block missing required 'name' field"),
        ({**CALL, "input": "x"}, "input of type"),
        ({"type": "text", "text": 1}, "cannot unmarshal number"),
    ],
)
def test_blocks_that_cannot_be_read_are_refused(block: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _user(block)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [{"content": "hi"}, {"role": "", "content": "hi"}, {"role": "robot", "content": "hi"}],
)
def test_a_message_needs_a_role(message: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match='needs a "role"'):
        _messages(message)


def test_messages_that_say_nothing_are_none() -> None:
    with pytest.raises(BadInput, match="messages is required"):
        _messages({"role": "user", "content": []})


def test_a_system_prompt_is_text_or_blocks_of_it() -> None:
    def system(value: object) -> tuple[Message, ...]:
        return system_from_fields(Fields({"system": value}, "MessagesRequest"))

    assert system("s") == (Message("system", "s"),)
    assert system([TEXT, {**TEXT, "cache_control": {}}]) == (Message("system", "tt"),)
    assert system("") == system([]) == system(None) == ()
