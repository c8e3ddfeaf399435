"""What templates tell of their models without being executed."""

from __future__ import annotations

import time

import pytest

from olla.gotemplate.analysis import is_valid, thinking_tags, tool_tag, variables

NUM_CHARACTERS = 400_000


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{{ .Prompt }} text .Tools", {"prompt"}),
        ("{{ $.Messages }}", {"$", "messages"}),
        ("{{ if and .A (not $.B) }}{{ else if .C }}{{ else }}{{ .D }}{{ end }}", set("abcd$")),
        ("{{ with (index .X 0).Y }}{{ end }}{{ template `t` .Z }}{{ define `t` }}{{ .W }}{{ end }}",
         set("xyzw")),
        ('{{ print "{" .Tools }} .Suffix {{/* .System */}}', {"tools"}),
        ("{{ .Prompt", set()),
    ],
)  # fmt: skip
def test_variables_are_those_in_actions(template: str, names: set[str]) -> None:
    assert variables(template) == names


@pytest.mark.parametrize(
    ("template", "tags"),
    [
        ("{{ range .Messages }}{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>\n{{ end }}"
         "{{ end }}", ("<think>", "</think>")),
        ("{{ range $i, $m := $.Messages }}{{ if true }}[THINK]{{ $m.Thinking }}[/THINK]{{ end }}"
         "{{ end }}", ("[THINK]", "[/THINK]")),
        ("{{ range .Messages }}{{ range .X }}<a>{{ .Thinking | html }}</a>{{ end }}{{ end }}",
         ("<a>", "</a>")),
        ("{{ range .Messages }}a{{ if .Thinking }}yes{{ end }}b{{ end }}", None),
        ("{{ range .Messages }}{{ .Thinking }}</think>{{ end }}", None),
        ("{{ range .Messages }} {{ .Thinking }}</think>{{ end }}", None),
        ("{{ range .Tools }}<think>{{ .Thinking }}</think>{{ end }}", None),
        ("<think>{{ .Thinking }}</think>", None),
        ("{{ range .Messages }}<think>{{ .Thinking }}</think>", None),
    ],
)  # fmt: skip
def test_thinking_tags_stand_round_the_thinking(
    template: str, tags: tuple[str, str] | None
) -> None:
    assert thinking_tags(template) == tags


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        ('{{ if .ToolCalls }}<tool_call>\n{"name"{{ end }}', "<tool_call>"),
        ("{{ if .X }}no{{ else if .ToolCalls }}{{ range .ToolCalls }} {{ .F }}[CALLS] [{{ end }}"
         "{{ end }}", "[CALLS] ["),
        ("{{ range $.M }}{{ range .ToolCalls }}<c>{{ . }}{{ end }}{{ end }}", "<c>"),
        ('{{ if .ToolCalls }} {"name"{{ end }}', "{"),
        ("{{ if .ToolCalls }}{{ .ToolCalls }}{{ end }}", "{"),
        ("{{ if .Tools }}<tools>{{ end }}", None),
        ("{{ if .ToolCalls }}<tool_call>", None),
    ],
)  # fmt: skip
def test_the_tool_tag_is_what_comes_before_calls(template: str, tag: str | None) -> None:
    assert tool_tag(template) == tag


@pytest.mark.parametrize(
    ("template", "expected"), [("", True), ("{{ .X }}", True), ("{{ .X", False)]
)
def test_whether_a_template_parses_can_be_asked(template: str, expected: bool) -> None:
    assert is_valid(template) is expected


@pytest.mark.parametrize(
    "part",
    ["{{", "{{/*", "{{ ", "{{ `", "{{ x ", " ", "{{ .A }}", "{{ $a := 1 }}", "{{if 1}}",
     "{{ range .Messages }}<{{ .Thinking }}", "{{ if .ToolCalls }}"],
)  # fmt: skip
@pytest.mark.parametrize("num_characters", [100_000, NUM_CHARACTERS])
def test_hostile_templates_are_judged_in_linear_time(part: str, num_characters: int) -> None:
    text = "{{" + part * (num_characters // len(part))
    started = time.process_time()

    variables(text)
    thinking_tags(text)
    tool_tag(text)

    assert time.process_time() - started < 2.0


def test_nested_ranges_are_looked_at_once() -> None:
    text = "{{range .Messages}}" * 39 + "x{{.Thinking}}" * 5000 + "{{end}}" * 39
    assert is_valid(text)
    started = time.process_time()

    assert thinking_tags(text) is None

    assert time.process_time() - started < 0.5
