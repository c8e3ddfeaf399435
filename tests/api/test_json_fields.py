"""Bodies are read as Go's encoding/json reads them."""

from __future__ import annotations

import pytest

from olla.api.json_fields import go_type, parse_fields, parse_object
from olla.errors import BadInput


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b" \r\n\t", "missing request body"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' at offset 5"),
        (b'{"a":', "unexpected EOF"),
        (b'{"a":"b', "unexpected EOF"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.TestRequest"),
        (b'"a"', "json: cannot unmarshal string into Go value of type api.TestRequest"),
        (b"7", "json: cannot unmarshal number 7 into Go value of type api.TestRequest"),
        (b'{"a":' + b"1" * 5000 + b"}", "json: number out of range"),
        (b"[" * 200_000, "exceeded max depth"),
        (
            b'{"a":' + b"[" * 600 + rb'"\u0041"' + b"]" * 600 + b"}",
            "exceeded max depth",
        ),
        (
            b'{"a":{"b":[-1e999]}}',
            "json: cannot unmarshal number -1e999 into Go value of type float64",
        ),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, error: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_fields(body, "TestRequest")

    assert str(refusal.value) == error


def test_only_the_first_value_is_read() -> None:
    assert parse_fields(b'{"a":"1"}{"a":"2"} trailing', "TestRequest").text("a") == "1"


def test_keys_match_in_any_case_and_the_last_wins() -> None:
    assert parse_fields(b'{"MODEL":"a","Model":"b"}', "TestRequest").text("model") == "b"


@pytest.mark.parametrize("body", [b"null", b"{}", b'{"stream":null,"model":null}'])
def test_null_is_not_set(body: bytes) -> None:
    fields = parse_fields(body, "TestRequest")

    assert fields.text("model") == ""
    assert fields.flag("stream", default=True) is True


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    fields = parse_fields(rb'{"a":{"\ud800":["\udc00!"]},"b":"\ud83d\ude00"}', "TestRequest")

    assert fields.object("a") == {"\ufffd": ["\ufffd!"]}
    assert fields.text("b") == "😀"


def test_bytes_that_are_not_utf8_become_the_replacement_character() -> None:
    assert parse_fields(b'{"a":"\xff"}', "TestRequest").text("a") == "\ufffd"


@pytest.mark.parametrize(
    ("read", "value", "kinds"),
    [
        ("text", b"1", "number 1 into Go struct field R.f of type string"),
        ("text", b"true", "bool into Go struct field R.f of type string"),
        ("flag", b'"true"', "string into Go struct field R.f of type bool"),
        ("flag", b"1", "number 1 into Go struct field R.f of type bool"),
        ("integer", b"1.5", "number 1.5 into Go struct field R.f of type int"),
        (
            "integer",
            b"9223372036854775808",
            "number 9223372036854775808 into Go struct field R.f of type int",
        ),
        (
            "integers",
            b"[-9223372036854775809]",
            "number -9223372036854775809 into Go struct field R.f of type int",
        ),
        ("integer", b"true", "bool into Go struct field R.f of type int"),
        ("object", b'"x"', "string into Go struct field R.f of type map[string]interface {}"),
        ("texts", b'"x"', "string into Go struct field R.f of type []string"),
        ("texts", b"[1]", "number 1 into Go struct field R.f of type string"),
        ("texts", b"[null]", "null into Go struct field R.f of type string"),
        ("integers", b'["1"]', "string into Go struct field R.f of type int"),
        ("text_map", b"[]", "array into Go struct field R.f of type map[string]string"),
        ("text_map", b'{"a":{}}', "object into Go struct field R.f of type string"),
    ],
)
def test_a_wrong_type_is_named_in_gos_words(read: str, value: bytes, kinds: str) -> None:
    fields = parse_fields(b'{"f":' + value + b"}", "R")

    with pytest.raises(BadInput) as refusal:
        getattr(fields, read)("f")

    assert str(refusal.value) == f"json: cannot unmarshal {kinds}"


def test_a_nested_field_is_named_with_its_path() -> None:
    fields = parse_fields(b'{"messages":[{"content":"ok"},{"content":[]}]}', "ChatRequest")
    messages = fields.objects("messages", "api.Message")

    with pytest.raises(
        BadInput, match=r"array into Go struct field ChatRequest\.messages\.content"
    ):
        messages[1].text("content")


def test_an_object_is_all_of_its_text() -> None:
    assert parse_object(' {"b": 1, "A": "\\ud800"}\n') == {
        "b": 1,
        "A": "\N{REPLACEMENT CHARACTER}",
    }


@pytest.mark.parametrize("text", ["", " ", "[]", "null", "{}{}", "{} x", "{", '{"a": Infinity}'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_object(text)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "<nil>"),
        (True, "bool"),
        (1, "float64"),
        (1.5, "float64"),
        ("", "string"),
        ([], "[]interface {}"),
        ({}, "map[string]interface {}"),
    ],
)
def test_values_have_gos_types(value: object, kind: str) -> None:
    assert go_type(value) == kind
