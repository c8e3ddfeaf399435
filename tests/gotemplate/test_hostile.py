"""Whatever the template: it ends, within bounds, in text or in a TemplateError."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olla.errors import TemplateError
from olla.gotemplate.analysis import thinking_tags, tool_tag, variables
from olla.gotemplate.budget import MAX_SIZE
from olla.gotemplate.evaluate import execute
from olla.gotemplate.parser import parse
from olla.gotemplate.pipelines import FUNCTIONS
from olla.gotemplate.response import until_response, with_response
from olla.gotemplate.values import JsonMap, Struct

MAX_SECONDS = 10.0
"""Of processor time; most runs take a thousandth of it."""

DATA: dict[str, Any] = {
    "Messages": [Struct({"Role": "user", "Content": "é" * 9}, {"role": "user"})] * 3,
    "Tools": JsonMap({"a": [1.5, None, True, {"b": "<"}]}),
    "Prompt": "x" * 1000,
    "N": -3,
}
WORDS = [
    "{{", "}}", "{{-", "-}}", "if ", "else", "end", "range ", "with ", "define ", "template ",
    "block ", "break", "continue", "/*", "*/", ".", ".Messages", ".Tools.a", ".Prompt", "$", "$x",
    ":=", "=", "|", "(", ")", '"t"', "`r`", "'c'", "1", "-2.5", "nil", "true", ",", " ", "\n",
    *(f"{name} " for name in sorted(FUNCTIONS)),
]  # fmt: skip
RELAXED = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100, database=None
)


def outcome(text: str) -> None:
    """Do all that is ever done with a template."""
    started = time.process_time()
    variables(text), thinking_tags(text), tool_tag(text)
    try:
        tree = with_response(parse(text))
        for each in (tree, until_response(tree)):
            assert len(execute(each, DATA)) <= MAX_SIZE
    except TemplateError as error:
        assert str(error).startswith("template error: ")
    assert time.process_time() - started < MAX_SECONDS


@RELAXED
@given(st.text())
def test_any_text_ends(text: str) -> None:
    outcome(text)


@RELAXED
@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_any_words_of_the_language_end(text: str) -> None:
    outcome(text)


def _operands(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    calls = st.builds(
        lambda name, arguments: f"({' '.join([name, *arguments])})",
        st.sampled_from(sorted(FUNCTIONS)),
        st.lists(inner, max_size=4),
    )
    return calls | st.builds("({} | {})".format, inner, calls)


LEAVES = st.sampled_from(
    [".", "$", ".Messages", "$.Tools", "$.Tools.a", ".Prompt", "$.N", ".Role", "nil", "0", "-1",
     "7", "2.5", "`%v%s%d%q%x%T`", "``", "`{{`", "true", "'x'"]
)  # fmt: skip
OPERANDS = st.recursive(LEAVES, _operands, max_leaves=8)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.builds("{{{{ if {} }}}}{}{{{{ else }}}}{}{{{{ end }}}}".format, OPERANDS, inner, inner)
        | st.builds("{{{{ range $i, $x := {} }}}}{}{{{{ end }}}}".format, OPERANDS, inner)
        | st.builds("{{{{ range {} }}}}{}{{{{ break }}}}{{{{ end }}}}".format, OPERANDS, inner)
        | st.builds("{{{{ with $x := {} }}}}{}{{{{ else }}}}{}{{{{ end }}}}".format,
                    OPERANDS, inner, inner)
        | st.builds("{{{{ block `t` {} }}}}{}{{{{ end }}}}".format, OPERANDS, inner)
        | st.builds("{}{}".format, inner, inner)
    )  # fmt: skip


ACTIONS = st.builds("{{{{ print {} }}}}".format, OPERANDS) | st.sampled_from(
    ["text", "{{ template `t` . }}", "{{ .Response }}", "{{ $y := . }}{{ $y = $y }}"]
)


@RELAXED
@given(st.recursive(ACTIONS, _blocks, max_leaves=12))
def test_any_template_ends(text: str) -> None:
    outcome(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 9999 }}{{ range 9999 }}{{ print $ }}{{ end }}{{ end }}",
        "{{ $x := .Prompt }}{{ range 99 }}{{ $x = printf `%v%v` $x $x }}{{ end }}",
        "{{ $x := .Prompt }}{{ range 99 }}{{ $x = html `&&` | print $x $x | js }}{{ end }}",
        "{{ range 999999 }}{{ $x := slice $.Messages 0 1 }}{{ json $x }}{{ end }}",
        "{{ define `t` }}{{ range 9 }}{{ template `t` . }}{{ end }}{{ end }}{{ template `t` }}",
        "{{ printf `" + "%1000d" * 20_000 + "` 1 }}",
        "{{ " + "print (" * 39 + "1" + ")" * 39 + " }}",
        "{{ if 1 }}" * 38 + "{{ " + "(" * 2 + "1" + ")" * 2 + " }}" + "{{ end }}" * 38,
    ],
)
def test_templates_that_mean_ill_end(text: str) -> None:
    outcome(text)
