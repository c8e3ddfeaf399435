"""What is a template, and where an error is said to be."""

from __future__ import annotations

import pytest

from olla.errors import TemplateError
from olla.gotemplate.lexer import MAX_TEMPLATE_CHARS
from olla.gotemplate.parser import parse
from olla.gotemplate.stream import MAX_DEPTH, MAX_VARIABLES


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{{ .A", "line 1 column 6: unclosed action"),
        ("a\nbc{{ foo }}", 'line 2 column 6: function "foo" not defined'),
        ("{{ $x }}", "line 1 column 4: undefined variable $x"),
        ("{{ $x = 1 }}", "line 1 column 4: undefined variable $x"),
        ("{{ if 1 }}{{ $x := 1 }}{{ end }}{{ $x }}", "undefined variable $x"),
        ("{{ define `t` }}{{ $x }}{{ end }}", "undefined variable $x"),
        ("{{ if 1 }}", "expected {{end}} of {{if}}, found the end of the template"),
        ("{{ if 1 }}{{ else }}{{ else }}{{ end }}", "expected {{end}} of {{if}}, found a second"),
        ("{{ if 1 }}{{ else with 1 }}{{ end }}", "unexpected 'with' in else"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ else }}", "unexpected {{else}}"),
        ("{{ if }}{{ end }}", "missing value for if"),
        ("{{ }}", "missing value for an action"),
        ("{{ 1 | }}", "missing value for an action"),
        ("{{ (1 }}", "unexpected '}}' in an action"),
        ("{{ 1) }}", "unexpected ')' in an action"),
        ("{{ 1 | 2 }}", "a value cannot take what comes before it"),
        ("{{ nil }}", "nil is not a command"),
        ("{{ nil.A }}", "unexpected .A after nil"),
        ("{{ break }}", "{{break}} outside {{range}}"),
        ("{{ range 1 }}{{ end }}{{ continue }}", "{{continue}} outside {{range}}"),
        ("{{ range 1 }}{{ else }}{{ break }}{{ end }}", "{{break}} outside {{range}}"),
        ("{{ range 1 }}{{ block `b` . }}{{ break }}{{ end }}{{ end }}", "{{break}} outside"),
        ("{{ if 1 }}{{ define `t` }}{{ end }}{{ end }}", "{{define}} inside another block"),
        ("{{ define t }}{{ end }}", "{{define}} needs a name in quotes"),
        ("{{ template .A }}", "{{template}} needs a name in quotes"),
        ("{{/* x", "unclosed comment"),
        ("{{/* x */ .A }}", "a comment must be alone in its action"),
        ('{{ "x }}', "unterminated string"),
        ("{{ `x }}", "unterminated string"),
        ("{{ 'x }}", "unterminated character"),
        ("{{ 'xy' }}", "bad literal 'xy'"),
        (r'{{ "\q" }}', r"bad literal"),
        (r'{{ "\ud800" }}', r"bad literal"),
        ("{{ 99999999999999999999 }}", "the number is too large"),
        ("{{ 12x }}", "unexpected '1'"),
        ("{{ .A# }}", "unexpected '#'"),
        ("{{ $a, $b := 1 }}", "undefined variable $a"),
    ],
)
def test_what_is_no_template_is_refused_with_its_place(text: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)

    assert str(caught.value).startswith("template error: line ")
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("start", "end"),
    [("{{ if 1 }}", "{{ end }}"), ("{{ block `b` . }}", "{{ end }}"), ("{{ (", "x")],
)
def test_nesting_has_a_limit(start: str, end: str) -> None:
    depth = MAX_DEPTH + 1
    text = "{{ " + "(" * depth + "1" + ")" * depth + "}}" if "(" in start else start * depth + end

    with pytest.raises(TemplateError, match=f"nested more than {MAX_DEPTH} deep"):
        parse(text)


def test_a_chain_of_else_ifs_is_not_nesting() -> None:
    parse("{{ if 1 }}" + "{{ else if 1 }}" * 500 + "{{ end }}")


def test_variables_have_a_limit() -> None:
    parse("{{ if 1 }}{{ $x := 1 }}{{ end }}" * MAX_VARIABLES)

    with pytest.raises(TemplateError, match=f"more than {MAX_VARIABLES} variables"):
        parse("{{ $x := 1 }}" * MAX_VARIABLES)


def test_length_has_a_limit() -> None:
    parse("x" * MAX_TEMPLATE_CHARS)

    with pytest.raises(TemplateError, match=f"longer than {MAX_TEMPLATE_CHARS} characters"):
        parse("x" * (MAX_TEMPLATE_CHARS + 1))
