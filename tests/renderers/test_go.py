"""How Go templates are executed: modes, collation, variables (spec/modelfile.md section 10.2)."""

from __future__ import annotations

import time
from datetime import date

import pytest

from olla.errors import TemplateError
from olla.messages import Message, Tool
from olla.renderers.conversation import Conversation
from olla.renderers.go import GoTemplate
from tests.renderers import go_families

LEGACY = "S:{{ .System }} U:{{ .Prompt }} A:{{ .Response }};"
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def chat(*turns: str) -> Conversation:
    """`u:Hi` is a turn of the user."""
    pairs = (turn.split(":", 1) for turn in turns)
    return Conversation(tuple(Message(ROLES[role], content) for role, content in pairs))


@pytest.mark.parametrize(
    ("template", "turns", "text"),
    [
        ("{{ .Prompt }}", ["u:Hi"], "Hi"),
        (LEGACY, ["s:s", "u:a", "a:b", "u:c"], "S:s U:a A:b;S: U:c A:"),
        (LEGACY, ["u:a", "u:b"], "S: U:a\n\nb A:"),
        (LEGACY, ["u:a", "a:b"], "S: U:a A:b"),
        ("{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}", ["s:s", "u:u"],
         "<system>s<user>u"),
        ("{{ if .System }}[{{ .System }}]{{ end }}{{ range .Messages }}"
         '{{ if eq .Role "user" }}U{{ .Content }}{{ end }}{{ end }}',
         ["s:s1", "u:u", "s:s2"], "[s1\n\ns2]Uu"),
        ("{{- range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}last{{ end }}"
         "{{ end }}", ["u:a", "a:b"], "last"),
    ],
)  # fmt: skip
def test_the_vectors_of_the_specification(template: str, turns: list[str], text: str) -> None:
    assert GoTemplate(template).render(chat(*turns)) == text


def test_a_suffix_is_rendered_with_the_prompt_alone() -> None:
    conversation = Conversation((Message("user", "a"),), think=True, suffix="b")

    for template in ("<P>{{ .Prompt }}<S>{{ .Suffix }}<M>", "<P>{{ .Prompt }}<S>{{ .Suffix }}<M>"
                     "{{ .Response }}{{ range .Messages }}x{{ end }}"):  # fmt: skip
        assert GoTemplate(template).render(conversation) == "<P>a<S>b<M>"


def test_tools_print_as_compact_json_in_ollamas_order() -> None:
    schema = {
        "properties": {"b": {"enum": [1], "type": ["string", "null"]}, "a": {"minimum": 1}},
        "additionalProperties": False,
    }
    conversation = Conversation((Message("user", "x"),), tools=(Tool("f", "", schema),))

    text = GoTemplate("{{ .Tools }}{{ range .Messages }}{{ end }}").render(conversation)

    assert text == (
        '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"",'
        '"properties":{"a":{"minimum":1},"b":{"type":["string","null"],"enum":[1]}},'
        '"additionalProperties":false}}}]'
    )


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([], "S: U: A:"),
        (["s:a", "s:b", "u:c"], "S:a\n\nb U:c A:"),
        (["u:a", "s:b", "u:c"], "S: U:a A:;S:b U:c A:"),
        (["a:x", "u:a"], "S: U: A:x;S: U:a A:"),
        (["u:a", "t:ignored", "u:b"], "S: U:b A:"),
    ],
)
def test_a_new_exchange_begins_where_the_old_one_is_over(turns: list[str], text: str) -> None:
    assert GoTemplate(LEGACY).render(chat(*turns)) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ .Prompt }}{{ if .Response }}<{{ .Response }}>{{ end }};", "a<b>;c"),
        ("{{ .Prompt }}{{ if .System }}1{{ .Response }}x{{ else }}2{{ .Response }}y{{ end }}z",
         "a2byzc2"),
        ("{{ .Prompt }}{{ if .System }}1{{ .Response }}x{{ else }}2{{ end }}z", "a2zc2"),
        ("{{ .Prompt }}{{ with .Prompt }}{{ $.Response }}x{{ end }}z", "abxzc"),
        ("{{ .Prompt }}{{ print .Response `!` }}z", "ab!zc!"),
        ("{{ .Prompt }} {{ define `t` }}[{{ . }}]{{ end }}{{ template `t` .Prompt }}",
         "a [a]bc [c]"),
    ],
)  # fmt: skip
def test_what_comes_after_the_reply_waits_for_it(template: str, text: str) -> None:
    assert GoTemplate(template).render(chat("u:a", "a:b", "u:c")) == text


@pytest.mark.parametrize(
    ("think", "text"),
    [(None, "false||false"), (False, "false||true"), (True, "true|medium|true"),
     ("low", "true|low|true")],
)  # fmt: skip
@pytest.mark.parametrize("rest", ["{{ .Response }}", "{{ range .Messages }}{{ end }}"])
def test_templates_hear_of_thinking(think: bool | str | None, text: str, rest: str) -> None:
    template = "{{ .Think }}|{{ .ThinkLevel }}|{{ .IsThinkSet }}" + rest

    assert GoTemplate(template).render(Conversation((), think=think)) == text


def test_turns_of_tools_stay_apart() -> None:
    template = "{{ range .Messages }}({{ .Role }} {{ .Content }}){{ end }}"

    text = GoTemplate(template).render(chat("u:a", "u:b", "t:1", "t:2", "u:c"))

    assert text == "(user a\n\nb)(tool 1)(tool 2)(user c)"


def test_a_message_has_all_of_its_fields() -> None:
    template = (
        "{{ range .Messages }}{{ .Role }},{{ .Thinking }},{{ .ToolName }},{{ .ToolCallID }},"
        "{{ len .Images }},{{ len .ToolCalls }};{{ end }}{{ .Prompt }}"
    )
    message = Message("tool", "12", tool_name="f", tool_call_id="c1")

    assert GoTemplate(template).render(Conversation((message,))) == "tool,,f,c1,0,0;<no value>"


def test_images_are_tags_in_the_text() -> None:
    turns = (
        Message("user", "a", images=(b"1",)),
        Message("user", "b [img]", images=(b"2",)),
        Message("assistant", "c"),
        Message("user", "d", images=(b"3",)),
    )
    knows_messages = GoTemplate("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}")
    knows_turns = GoTemplate("{{ .Prompt }}>{{ .Response }};")

    assert knows_messages.render(Conversation(turns)) == (
        "user:[img-0]a\n\nb [img-1];assistant:c;user:[img-2]d;"
    )
    assert knows_turns.render(Conversation(turns)) == "[img-0]a\n\nb [img-1]>c;[img-2]d>"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": [1]},
        {"properties": {"a": True, "b": None, "c": {"anyOf": [{"type": 5}, 7]}}, "type": ["x", 1]},
        {"properties": {"a": {"properties": 3, "anyOf": "x", "enum": {}, "required": 1}}},
        {"required": "all", "$defs": 1, "items": [[]]},
    ],
)
def test_schemas_that_are_none_do_no_harm(parameters: dict[str, object]) -> None:
    template = (
        "{{ range .Tools }}{{ . }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $n }}"
        "{{ if $p }}{{ json $p }}{{ end }}{{ end }}{{ end }}{{ .Messages }}"
    )
    conversation = Conversation((), tools=(Tool("f", "", parameters),))

    assert '"name":"f"' in GoTemplate(template).render(conversation)


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(900):
        schema = {"properties": {"a": schema}}
    conversation = Conversation((), tools=(Tool("f", "", schema),))

    with pytest.raises(TemplateError, match="nested more than 64 deep"):
        GoTemplate("{{ .Tools }}{{ .Messages }}").render(conversation)


def test_the_date_is_today() -> None:
    before = date.today()
    text = GoTemplate("{{ currentDate }}{{ .Messages }}").render(Conversation(()))

    assert text in {f"{before}[]", f"{date.today()}[]"}


def test_the_budget_is_shared_by_all_exchanges() -> None:
    template = GoTemplate("{{ range 10000 }}{{ end }}{{ .Prompt }}{{ .Response }}")
    turns = ["u:a", "a:b"] * 100

    with pytest.raises(TemplateError, match="steps"):
        template.render(chat(*turns))


def test_a_long_conversation_takes_milliseconds() -> None:
    turns = [f"{role}:some words of text" for role in "ua" * 100]
    template = GoTemplate(go_families.QWEN25)
    started = time.process_time()

    template.render(chat(*turns))

    assert time.process_time() - started < 0.25
