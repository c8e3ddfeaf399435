"""How values are printed, as Go's fmt and encoding/json do."""

from __future__ import annotations

import pytest

from olla.gotemplate.values import JsonList, JsonMap, Refused, Struct, json_text, text_of, truth


@pytest.mark.parametrize(
    ("value", "text", "as_json"),
    [
        (1, "1", "1"), (-7, "-7", "-7"), (True, "true", "true"), (None, "<nil>", "null"),
        (0.0, "0", "0"), (1.0, "1", "1"), (-2.5, "-2.5", "-2.5"),
        (1e20, "100000000000000000000", "100000000000000000000"),
        (1e21, "1e+21", "1e+21"), (1.5e300, "1.5e+300", "1.5e+300"),
        (0.0001, "0.0001", "0.0001"), (0.00001, "1e-05", "0.00001"), (1.5e-7, "1.5e-07", "1.5e-7"),
        ("a\"\n<é\u2028\x01", "a\"\n<é\u2028\x01", '"a\\"\\n\\u003cé\\u2028\\u0001"'),
        ([1, "a", None], "[1 a <nil>]", '[1,"a",null]'), ([], "[]", "[]"),
        ({"b": 1, "a": [2.0]}, "map[a:[2] b:1]", '{"a":[2],"b":1}'), ({}, "map[]", "{}"),
    ],
)  # fmt: skip
def test_values_print_as_in_go(value: object, text: str, as_json: str) -> None:
    assert (text_of(value), json_text(value)) == (text, as_json)


def test_values_of_ollamas_types_print_as_json() -> None:
    tool = Struct({"Name": "f"}, {"type": "function", "a": JsonMap({"z": 1, "b": 2})})

    assert text_of(tool) == '{"type":"function","a":{"b":2,"z":1}}'
    assert text_of([JsonList([tool])]) == f"[[{text_of(tool)}]]"
    assert text_of({"k": JsonMap({"x": 1})}) == 'map[k:{"x":1}]'


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, False), (0.0, False), ("", False), ([], False), ({}, False), (None, False), (False, False),
     (1, True), (-0.5, True), ("x", True), ([0], True), ({"a": 0}, True), (Struct({}, {}), True)],
)  # fmt: skip
def test_what_is_not_empty_is_true(value: object, expected: bool) -> None:
    assert truth(value) is expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**2000, object()])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(Refused):
        json_text(value)
