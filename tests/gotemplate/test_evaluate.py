"""Templates and the text they make, by Go's rules (text/template)."""

from __future__ import annotations

from typing import Any

import pytest

from olla.errors import TemplateError
from olla.gotemplate.budget import MAX_SIZE, MAX_STEPS
from olla.gotemplate.evaluate import MAX_DEPTH, execute
from olla.gotemplate.parser import parse
from olla.gotemplate.values import MAX_NESTING, Struct

DATA: dict[str, Any] = {
    "S": "text",
    "Empty": "",
    "L": ["a", "b", "c"],
    "None": [],
    "M": {"b": 2, "a": {"x": "deep"}},
    "T": Struct({"Name": "f"}, {"name": "f"}),
    "Zero": 0,
}


def run(text: str) -> str:
    return execute(parse(text), DATA)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain } text {", "plain } text {"),
        ("a {{- .S -}} b", "atextb"),
        ("a\n{{- /* note */ -}}\nb", "ab"),
        ("a {{/* note */}} b", "a  b"),
        ("{{-3}} {{- 3 }}", "-33"),
        ("{{ .S }}{{ .Missing }}", "text<no value>"),
        ("{{ .Missing.X }}{{ .M.a.x }}{{ .M.c.x }}", "<no value>deep<no value>"),
        ("{{ $.S }}{{ ($.M).a.x }}{{ (index .M `a`).x }}", "textdeepdeep"),
        ("{{ true }} {{ 1.50 }} {{ 'a' }} {{ 0x1F }} {{ 017 }}", "true 1.5 97 31 15"),
        (r'{{ "a\tb\"\u00e9\x41" }}{{ `raw \n` }}', 'a\tb"éAraw \\n'),
    ],
)  # fmt: skip
def test_actions_print_their_value(template: str, text: str) -> None:
    assert run(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ if .Empty }}a{{ else if .Zero }}b{{ else if .S }}c{{ else }}d{{ end }}", "c"),
        ("{{ if .None }}a{{ else }}b{{ end }}", "b"),
        ("{{ if .T }}a{{ end }}", "a"),
        ("{{ with .S }}[{{ . }}]{{ end }}", "[text]"),
        ("{{ with .Empty }}a{{ else with .L }}{{ len . }}{{ else }}c{{ end }}", "3"),
        ("{{ with $x := .S }}{{ $x }}{{ end }}", "text"),
        ("{{ if $x := .Empty }}{{ else }}[{{ $x }}]{{ end }}", "[]"),
        ("{{ range .L }}{{ . }},{{ end }}", "a,b,c,"),
        ("{{ range $x := .L }}{{ $x }}{{ $.S }}{{ end }}", "atextbtextctext"),
        ("{{ range $i, $x := .L }}{{ $i }}{{ $x }}{{ end }}", "0a1b2c"),
        ("{{ range .None }}a{{ else }}none{{ end }}{{ range .Missing }}b{{ end }}", "none"),
        ("{{ range $k, $v := .M }}{{ $k }}{{ end }}", "ab"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range .L }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .L }}{{ with `x` }}{{ break }}{{ end }}{{ . }}{{ else }}e{{ end }}!", "!"),
        ("{{ range .L }}{{ range $.L }}{{ break }}{{ end }}{{ . }}{{ end }}", "abc"),
    ],
)
def test_blocks_choose_and_repeat(template: str, text: str) -> None:
    assert run(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ $x := 1 }}{{ $x }}", "1"),
        ("{{ $x := 1 }}{{ if 1 }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := 1 }}{{ if 1 }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := `` }}{{ range .L }}{{ $x = print $x . }}{{ end }}{{ $x }}", "abc"),
        ("{{ $x := 1 }}{{ $x := print $x 2 }}{{ $x }}", "1 2"),
        ("{{ $m := .M }}{{ $m.a.x }}", "deep"),
        ("{{ $i := 9 }}{{ range $i, $_ = .L }}{{ end }}{{ $i }}", None),
        ("{{ $i := 9 }}{{ range $i = .L }}{{ end }}{{ $i }}", "c"),
    ],
)
def test_variables_live_in_their_block(template: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(TemplateError, match=r"undefined variable \$_"):
            run(template)
    else:
        assert run(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ define `t` }}<{{ . }}>{{ end }}{{ template `t` .S }}{{ template `t` }}",
         "<text><<no value>>"),
        ("{{ define `t` }}{{ $.Name }}{{ end }}{{ template `t` .T }}", "f"),
        ("{{ block `b` .L }}{{ len . }}{{ end }}{{ template `b` .S }}", "34"),
        ('{{ define "t" }}1{{ end }}{{ define "t" }}2{{ end }}{{ template "t" }}', "2"),
        ("{{ define `n` }}{{ if . }}x{{ template `n` (slice . 1) }}{{ end }}{{ end }}"
         "{{ template `n` .L }}", "xxx"),
    ],
)  # fmt: skip
def test_templates_include_others(template: str, text: str) -> None:
    assert run(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ .S | len }}", "4"),
        ("{{ .S | printf `%s-%s` `a` | len }}", "6"),
        ("{{ and 1 .Empty .Crash.X }}|{{ or .Empty `x` }}|{{ and 1 2 }}|{{ or 0 `` }}", "|x|2|"),
        ("{{ and .Zero (index .L 9) }}{{ or 1 (index .L 9) }}", "01"),
        ("{{ 1 | and 0 }}{{ 1 | and 2 }}{{ 1 | or 0 }}", "011"),
        ("{{ not .S }}{{ not (not .S) }}", "falsetrue"),
    ],
)
def test_values_go_through_functions_and_pipes(template: str, text: str) -> None:
    assert run(template) == text


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("a\n {{ .S.X }}", "line 2 column 5: can't evaluate field X in a value of type string"),
        ("{{ .T.Nope }}", "can't evaluate field Nope in a value of type struct"),
        ("{{ .L.X }}", "can't evaluate field X in a value of type []interface {}"),
        ("{{ .S 1 }}", "arguments are given to what is no function"),
        ("{{ 1 | .S }}", "arguments are given to what is no function"),
        ("{{ range .S }}{{ end }}", "range cannot go over a value of type string"),
        ("{{ range .T }}{{ end }}", "range cannot go over a value of type struct"),
        ("{{ template `nope` }}", 'template "nope" not defined'),
        ("{{ index .L 3 }}", "index 3 is out of range"),
        ("{{ and }}", "and takes at least 1 argument"),
    ],
)
def test_what_the_data_cannot_give_is_an_error_with_its_place(template: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run(template)

    assert str(caught.value).startswith("template error: line ")
    assert error in str(caught.value)


TO_MAX = "{{ $x := `12345678` }}{{ range 21 }}{{ $x = print $x $x }}{{ end }}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ range 1000000000 }}{{ end }}", f"more than {MAX_STEPS} steps"),
        ("{{ range 9999 }}{{ range 9999 }}{{ end }}{{ end }}", f"more than {MAX_STEPS} steps"),
        (TO_MAX, "more than"),
        ("{{ range 99999 }}" + "x" * 999 + "{{ end }}", f"more than {MAX_SIZE} characters"),
        (TO_MAX.replace("21", "16") + "{{ printf `" + "%[1]s" * 99 + "` $x }}", f"{MAX_SIZE} ch"),
        (TO_MAX.replace("21", "16") + "{{ print" + " $x" * 99 + "}}", "more than"),
        ("{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}", f"{MAX_DEPTH} levels"),
    ],
)
def test_a_template_without_end_is_ended(template: str, error: str) -> None:
    with pytest.raises(TemplateError, match=error):
        run(template)


def test_values_nested_without_end_are_not_printed() -> None:
    value = nested(2000)

    for template in ("{{ .X }}", "{{ json .X }}", "{{ print .X }}", "{{ printf `%v` .X }}"):
        with pytest.raises(TemplateError, match="nested more than 64 deep"):
            execute(parse(template), {"X": value})


def test_the_limits_together_stay_within_pythons_own() -> None:
    """Includes, parentheses and values, each as deep as they may be."""
    parentheses = 37
    inner = "(print " * parentheses + "(json (index . 0))" + ")" * parentheses
    template = parse(
        "{{ define `t` }}{{ if gt (len .) 1 }}{{ template `t` (slice . 1) }}{{ else }}{{ "
        + inner + " }}{{ end }}{{ end }}{{ template `t` .L }}"
    )  # fmt: skip

    text = execute(template, {"L": [0] * (MAX_DEPTH // 2 - 2) + [nested(MAX_NESTING)]})

    assert text.count('{"a":') == MAX_NESTING


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value
