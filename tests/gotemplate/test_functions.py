"""Functions of templates, as Go's text/template and fmt have them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from olla.errors import TemplateError
from olla.gotemplate.evaluate import execute
from olla.gotemplate.parser import parse
from olla.gotemplate.values import Struct

MANY = {"AnyOf": [], "Type": ["string", "null"]}
DATA: dict[str, Any] = {
    "L": [1, 2, 3],
    "M": {"b": [True, None, 1.5], "a": "<&>"},
    "F": 2.0,
    "One": Struct({"AnyOf": [], "Type": "array"}, {}),
    "Many": Struct(MANY, {}),
    "Any": Struct({"AnyOf": [Struct(MANY, {}), Struct({"AnyOf": [], "Type": "x"}, {})]}, {}),
    "Untyped": Struct({"AnyOf": [], "Type": ""}, {}),
}


def run(text: str) -> str:
    return execute(parse("{{ " + text + " }}"), DATA, today=date(2024, 3, 1))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("eq 1 2 3 1", "true"), ("eq `a` `b`", "false"), ("eq .F 2.0", "true"),
        ("eq .Missing nil", "true"), ("eq nil 1", "false"), ("eq .L nil", "false"),
        ("ne 1 2", "true"), ("ne true true", "false"),
        ("lt 1 2", "true"), ("le 2 2", "true"), ("gt 1.5 1.0", "true"), ("ge `a` `b`", "false"),
        ("lt `a` `é`", "true"), ("not 0", "true"),
        ("len `é`", "2"), ("len .L", "3"), ("len .M", "2"),
        ("index .L 2", "3"), ("index .M `a`", "<&>"), ("index .M `x`", "<no value>"),
        ("index .M `b` 2", "1.5"), ("index `a` 0", "97"), ("index .L", "[1 2 3]"),
        ("slice .L 1", "[2 3]"), ("slice .L 1 2", "[2]"), ("slice .L", "[1 2 3]"),
        ("slice .L 0 1 2", "[1]"), ("slice `hello` 1 3", "el"), ("slice `é` 1", "\ufffd"),
        ("print 1 2 `a` 3 nil", "1 2a3 <nil>"), ("println 1 `a`", "1 a\n"), ("print", ""),
        ("html `<a href='x'>&\"`", "&lt;a href=&#39;x&#39;&gt;&amp;&#34;"),
        (r"js `<a='b\n\"`", r"\u003Ca\u003D\'b\\n\\\""), ("js `é\u2028\t`", "é\\u2028\\u0009"),
        ("urlquery `a b&c/é~`", "a+b%26c%2F%C3%A9~"),
        ("json .M", r'{"a":"\u003c\u0026\u003e","b":[true,null,1.5]}'), ("json .F", "2"),
        ("json nil", "null"),
        ("currentDate", "2024-03-01"), ("currentDate `2006`", "2024-03-01"),
        ("yesterdayDate", "2024-02-29"),
        ("toTypeScriptType .One", "any[]"), ("toTypeScriptType .Many", "string | null"),
        ("toTypeScriptType .Any", "string | null | any"), ("toTypeScriptType .Untyped", "any"),
    ],
)  # fmt: skip
def test_functions_give_what_go_gives(call: str, text: str) -> None:
    assert run(call) == text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("`%5d|%-5d|%05d|%+d|% d` 42 42 42 42 42", "   42|42   |00042|+42| 42"),
        ('`%5s|%-5s|%.2s|%q` `abc` `abc` `abc` `a"b`', '  abc|abc  |ab|"a\\"b"'),
        ("`%.2f|%8.3f|%e|%g` 3.14159 3.14159 1500.0 0.5", "3.14|   3.142|1.500000e+03|0.5"),
        ("`%x|%X|%#x|%o|%b|%c|%U` 255 255 255 8 5 97 97", "ff|FF|0xff|10|101|a|U+0061"),
        ("`%v|%v|%v|%t` .L .M nil true", "[1 2 3]|map[a:<&> b:[true <nil> 1.5]]|<nil>|true"),
        ("`%T %T %T` 1 `a` 1.5", "int string float64"),
        ("`%x|%s` `hi` .L", "6869|[1 2 3]"),
        ("`%*d|%-*d|` 4 1 4 1", "   1|1   |"),
        ("`%[2]d %[1]d` 1 2", "2 1"),
        ("`%d%%`  50", "50%"),
        ("`%d %s` `a` 1", "%!d(string=a) %!s(int=1)"),
        ("`%d %d` 1", "1 %!d(MISSING)"),
        ("`%d` 1 `b`", "1%!(EXTRA string=b)"),
        ("`100%`", "100%!(NOVERB)"),
        ("`%z` 1", "%!z(int=1)"),
        ("`%06.2f|%-8q|%#v` -1.5 `a` `b`", '-01.50|"a"     |"b"'),
    ],
)
def test_printf_formats_as_go_does(call: str, text: str) -> None:
    assert run(f"printf {call}") == text


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("eq 1 1.0", "int and float64 cannot be compared"),
        ("eq .L .L", "cannot be compared"),
        ("eq 1", "eq takes at least 2 arguments, and here are 1"),
        ("lt true false", "have no order"),
        ("lt 1 `a`", "int and string have no order"),
        ("len 1", "a value of type int has no length"),
        ("len nil", "a value of type <nil> has no length"),
        ("len 1 2", "len takes at most 1 arguments"),
        ("index .L 3", "index 3 is out of range"),
        ("index .L -1", "index -1 is out of range"),
        ("index .L `a`", "an index must be a whole number, not of type string"),
        ("index .L true", "an index must be a whole number, not of type bool"),
        ("index .M 1", "the key of a map must be text"),
        ("index nil 1", "a value of type <nil> cannot be indexed"),
        ("slice .L 4", "index 4 is out of range"),
        ("slice .L 2 1", "the bounds of a slice are out of order"),
        ("slice `abc` 0 1 2", "text cannot be sliced with three bounds"),
        ("slice .M 0", "cannot be sliced"),
        ("call .L", r"a value of type \[\]interface {} cannot be called"),
        ("printf 1", "the format of printf must be text"),
        ("printf `%9999d` 1", "no whole number up to 1000"),
        ("printf `%*d` `a` 1", "no whole number up to 1000"),
        ("toTypeScriptType .M", "takes a property"),
    ],
)
def test_what_a_function_does_not_take_is_an_error(call: str, error: str) -> None:
    with pytest.raises(TemplateError, match=error):
        run(call)
