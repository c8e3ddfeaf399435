"""Which renderer a template gets, and the templates that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from olla.errors import TemplateError
from olla.messages import Message
from olla.registry.model import is_go_template
from olla.renderers.base import check_template, choose
from olla.renderers.conversation import Conversation

HI = Conversation((Message("system", "S"), Message("user", "Hi")))
GO = "{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }}"
OWN = "own {{ messages[-1].content }}"
USERS = "user's {{ messages[-1].content }}"


@pytest.mark.parametrize(
    ("template", "override", "text"),
    [
        ("{{ .Prompt }}", "", "Hi"),
        ("{{- .Prompt -}}", "", "Hi"),
        (OWN, "", "own Hi"),
        (GO, "", "S Hi"),
        (GO, USERS, "user's Hi"),
        (OWN, "{{ .Prompt }}", "Hi"),
        (OWN, GO, "S Hi"),
    ],
)
def test_the_template_of_the_request_wins(template: str, override: str, text: str) -> None:
    assert choose(template, override).render(HI) == text


@pytest.mark.parametrize(
    "text",
    [
        "{{ .System }}",
        "{{- range .Messages }}{{ end }}",
        "{{ $x := 1 }}",
        "{{ `raw` }}",
        "{{/* a comment */}}",
        "{{ json .Tools }}",
        "{{ (index .Messages 0).Content }}",
        "x {{ .Prompt }}",
        "{{ else }}",
        "{{ .Prompt }}",
    ],
)
def test_go_templates_are_told_from_jinja(text: str) -> None:
    assert is_go_template(text)


@pytest.mark.parametrize(
    "text",
    [
        "plain text",
        "{{ bos_token }}{{ messages[0]['content'] }}",
        "{% if messages %}{{ .5 }}{% endif %}",
        "{{ messages[0].content | trim }}",
        "{{ range(3) | list }}",
        "{{- '.' + eos_token -}}",
    ],
)
def test_jinja_templates_are_told_from_go(text: str) -> None:
    assert not is_go_template(text)


@pytest.mark.parametrize("text", ["{{ .Prompt }}", OWN, GO])
def test_a_template_that_can_be_used_passes_the_check(text: str) -> None:
    check_template(text)


@pytest.mark.parametrize("text", ["{{ .Prompt", "{{ if .X }}", "{{ $x }}", "{% for %}"])
def test_a_template_that_cannot_be_used_does_not_pass_the_check(text: str) -> None:
    with pytest.raises(TemplateError, match=r"^template error: "):
        check_template(text)


def test_the_plain_prompt_has_the_turns_one_after_the_other() -> None:
    roles = ("user", "user", "assistant", "system", "assistant", "user")
    turns = tuple(Message(role, f"{role[0]}{index}") for index, role in enumerate(roles))

    text = choose("{{ .Prompt }}").render(Conversation(turns))

    assert text == "u0\n\nu1a2a4u5"


@pytest.mark.parametrize(("template", "is_expected"), [("{{ .Prompt }}", True), (OWN, False)])
def test_only_text_without_special_tokens_gets_them_added(template: str, is_expected: bool) -> None:
    assert choose(template).add_special_tokens is is_expected


def test_a_template_in_jinja_says_that_it_has_no_place_for_a_suffix() -> None:
    with pytest.raises(TemplateError, match="no place for a suffix"):
        choose(OWN).render(replace(HI, suffix="x"))
