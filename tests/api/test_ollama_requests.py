"""Ollama's requests are read into values, and refused in Ollama's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.ollama_requests import (
    CopyRequest,
    ShowRequest,
    TransferRequest,
    chat_from_json,
    copy_from_json,
    create_from_json,
    delete_from_json,
    generate_from_json,
    pull_from_json,
    push_from_json,
    show_from_json,
)
from olla.durations import FOREVER
from olla.errors import BadInput, OllaError
from olla.messages import Message, Tool, ToolCall
from olla.options import Options
from olla.requests import (
    AdapterChoice,
    ChatRequest,
    CreateRequest,
    GenerateRequest,
    TransferOptions,
)

DIGEST = "sha256:" + "0" * 64


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("format_", "schema"),
    [
        (None, None),
        ("", None),
        ("json", {"type": "object"}),
        ({}, {}),
        ({"type": "array"}, {"type": "array"}),
    ],
)
def test_a_format_is_read_as_a_schema(format_: object, schema: object) -> None:
    assert chat_from_json(body(model="m", format=format_)).format == schema
    assert generate_from_json(body(model="m", format=format_)).format == schema


def test_logprobs_may_be_asked_for() -> None:
    request = generate_from_json(body(model="m", logprobs=True, top_logprobs=20))

    assert (request.logprobs, request.top_logprobs) == (True, 20)


def test_a_bare_chat_request_streams() -> None:
    assert chat_from_json(body(model="m")) == ChatRequest(model="m", stream=True)


def test_a_chat_request_with_every_field() -> None:
    call = {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}}
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "minimum": 1}}

    request = chat_from_json(
        body(
            model="m",
            messages=[
                {"role": "USER", "content": "hi", "images": ["aGk=\r\n"]},
                {"role": "assistant", "thinking": "hm", "tool_calls": [call]},
                {"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "c1"},
            ],
            tools=[{"type": "function", "function": function}],
            stream=False,
            options={"num_ctx": 8.9, "temperature": 0, "mirostat": 1, "seed": None},
            keep_alive="1h30m",
            think="low",
            truncate=False,
            shift=False,
            _debug_render_only=True,
            format="",
            top_logprobs=0,
            unknown=[],
        )
    )

    assert request == ChatRequest(
        model="m",
        stream=False,
        options=Options(num_ctx=8, temperature=0.0),
        keep_alive_s=5400.0,
        think="low",
        truncate=False,
        shift=False,
        debug_render_only=True,
        messages=(
            Message("user", "hi", images=(b"hi",)),
            Message(
                "assistant", thinking="hm", tool_calls=(ToolCall("f", {"b": 1, "a": 2}, "c1"),)
            ),
            Message("tool", "1", tool_name="f", tool_call_id="c1"),
        ),
        tools=(Tool("f", "d", {"type": "object", "minimum": 1}),),
    )
    assert list(request.messages[1].tool_calls[0].arguments) == ["b", "a"]


def test_a_generate_request_with_every_field() -> None:
    request = generate_from_json(
        body(
            model="m",
            prompt="p",
            suffix="x",
            system="s",
            template="t",
            context=[1, 2],
            raw=True,
            images=["aGk="],
            keep_alive=-1,
            think=True,
        )
    )

    assert request == GenerateRequest(
        model="m",
        prompt="p",
        suffix="x",
        system="s",
        template="t",
        context=(1, 2),
        raw=True,
        images=(b"hi",),
        keep_alive_s=FOREVER,
        think=True,
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
        (
            {"format": "xml"},
            'invalid format: "xml"; expected "json" or a valid JSON Schema object',
        ),
        ({"format": 7}, 'invalid format: 7; expected "json" or a valid JSON Schema object'),
        (
            {"think": "very"},
            'invalid think value: "very" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            {"think": 1},
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        ({"keep_alive": "60"}, 'time: missing unit in duration "60"'),
        ({"keep_alive": "x"}, 'time: invalid duration "x"'),
        ({"keep_alive": True}, "Unsupported type: 'bool'"),
        ({"options": {"num_ctx": "a"}}, 'option "num_ctx" must be of type integer'),
        ({"options": {"stop": "x"}}, 'option "stop" must be of type array'),
        ({"options": {"stop": [1]}}, 'option "stop" must be of an array of strings'),
        (
            {"options": "x"},
            "json: cannot unmarshal string into Go struct field GenerateRequest.options "
            "of type map[string]interface {}",
        ),
        ({"images": ["aGk=", "a-b="]}, "images[1]: illegal base64 data at input byte 1"),
        ({"images": ["aGk"]}, "images[0]: illegal base64 data at input byte 3"),
        (
            {"images": ["data:image/png;base64,aGk="]},
            "images[0]: illegal base64 data at input byte 4",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(OllaError) as refusal:
        generate_from_json(body(model="m", **fields))

    assert str(refusal.value) == error


def test_content_must_be_a_text() -> None:
    with pytest.raises(OllaError, match="of type string"):
        chat_from_json(body(model="m", messages=[{"role": "user", "content": [{"type": "text"}]}]))


def test_arguments_of_a_tool_call_must_be_an_object() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}

    with pytest.raises(OllaError, match="unmarshal string into Go struct field"):
        chat_from_json(body(messages=[{"role": "assistant", "tool_calls": [call]}]))


def test_a_create_request_with_every_field() -> None:
    request = create_from_json(
        body(
            name="m",
            **{"from": "base"},
            files={"a/model.gguf": DIGEST},
            adapters={"adapter.gguf": DIGEST},
            template="t",
            system="s",
            renderer="r",
            parser="p",
            requires="0.1.0",
            quantization="q8_0",
            license=["l1", "l2"],
            parameters={"stop": ["x"], "other": 1},
            messages=[{"role": "user", "content": "hi"}],
            stream=False,
        )
    )

    assert request == CreateRequest(
        model="m",
        base="base",
        files={"a/model.gguf": DIGEST},
        adapters={"adapter.gguf": DIGEST},
        template="t",
        system="s",
        renderer="r",
        parser="p",
        requires="0.1.0",
        quantize="q8_0",
        licenses=("l1", "l2"),
        parameters={"stop": ["x"], "other": 1},
        messages=(Message("user", "hi"),),
        stream=False,
    )


def test_one_license_may_be_a_plain_text() -> None:
    assert create_from_json(body(model="m", license="MIT")).licenses == ("MIT",)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"files": {"/etc/passwd": DIGEST}}, "file path must be relative"),
        ({"files": {"../a": DIGEST}}, "file path must be relative"),
        ({"files": {"a//b": DIGEST}}, "file path must be relative"),
        ({"adapters": {"./a": DIGEST}}, "file path must be relative"),
        ({"files": {"a": ""}}, "invalid digest format"),
        ({"parameters": {"top_k": "x"}}, 'option "top_k" must be of type integer'),
        ({"draft_quantize": "q8_0"}, "--draft-quantize requires a DRAFT model"),
        ({"remote_host": "h"}, '"remote_host" is not supported by this server'),
    ],
)
def test_a_create_request_that_cannot_be_used_is_refused(
    fields: dict[str, Any], error: str
) -> None:
    with pytest.raises(OllaError) as refusal:
        create_from_json(body(model="m", **fields))

    assert str(refusal.value) == error


def test_show_reads_either_name_and_what_is_laid_over() -> None:
    request = show_from_json(body(name="m", verbose=True, system="s", options={"top_k": 1}))

    assert request == ShowRequest("m", verbose=True, system="s", options=Options(top_k=1))


def test_model_stands_before_its_old_name() -> None:
    assert delete_from_json(body(name="old", model="new")) == "new"


def test_copy_and_pull() -> None:
    assert copy_from_json(body(source="a", destination="b")) == CopyRequest("a", "b")
    assert pull_from_json(body(name="m", insecure=True, limit_rate=5)) == TransferRequest(
        "m", TransferOptions(insecure=True, limit_rate=5)
    )
    assert pull_from_json(body(model="m", dry_run=True, stream=False)) == TransferRequest(
        "m", TransferOptions(dry_run=True), stream=False
    )


def test_a_push_names_a_model() -> None:
    assert push_from_json(body(name="m")) == TransferRequest("m", TransferOptions())
    with pytest.raises(BadInput, match=r"^model is required$"):
        push_from_json(body())


def test_a_rate_below_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="limit_rate must be 0 or more"):
        pull_from_json(body(model="m", limit_rate=-1))


def test_adapters_of_a_request() -> None:
    body = b'{"model": "m", "adapters": [{"name": "a"}, {"name": "b", "scale": 0.5}]}'

    assert chat_from_json(body).adapters == (AdapterChoice("a"), AdapterChoice("b", 0.5))
    assert generate_from_json(b'{"model": "m", "adapters": []}').adapters == ()
    assert chat_from_json(b'{"model": "m"}').adapters is None


@pytest.mark.parametrize(
    ("adapters", "text"),
    [
        ('[{"scale": 1}]', "adapters: each needs the name of a model that is an adapter"),
        ('[{"name": "a", "scale": 101}]', "the scale of an adapter must be between -100 and 100"),
        (f"[{', '.join(['{}'] * 17)}]", "a request can use 16 adapters, not more"),
        ('["pirate"]', 'adapters: write a list, as in [{"name": "pirate", "scale": 0.5}]'),
        ('{"name": "a"}', 'adapters: write a list, as in [{"name": "pirate", "scale": 0.5}]'),
        ('[{"name": "a", "weight": 1}]',
         "adapters: unknown field 'weight'; each has a name and a scale"),
        ('[{"name": "a", "scale": "x"}]', "json: cannot unmarshal string into Go struct field "
         "ChatRequest.adapters.scale of type float64"),
    ],
)  # fmt: skip
def test_adapters_that_make_no_sense(adapters: str, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        chat_from_json(f'{{"model": "m", "adapters": {adapters}}}'.encode())

    assert str(caught.value) == text


def test_scales_of_a_create_request() -> None:
    request = create_from_json(
        b'{"model": "m", "adapter_scales": {"a": 1, "B": 0.5}, "force": true}'
    )

    assert request.adapter_scales == {"a": 1.0, "B": 0.5}
    assert request.force
