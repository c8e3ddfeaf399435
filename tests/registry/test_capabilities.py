"""What templates show of a model, at a cost that grows no faster than the template."""

from __future__ import annotations

import time

import pytest

from olla.registry.capabilities import (
    DEFAULT_TEMPLATE,
    go_capabilities,
    is_go_template,
    jinja_capabilities,
    parser_capabilities,
    select_template,
)

NUM_CHARACTERS = 400_000


@pytest.mark.parametrize(
    ("template", "is_go"),
    [
        ("{{{ .Prompt }}", True),
        ("{{ print }} {{ add 1 (.Count) }}", True),
        ("{{ {'a': b}['a'] }} .name", False),
    ],
)
def test_braces_do_not_hide_what_an_action_says(template: str, is_go: bool) -> None:
    assert is_go_template(template) is is_go


def test_go_actions_with_braces_in_their_strings_are_read() -> None:
    assert list(go_capabilities('{{ print "{" .Tools }} text {{ .Suffix }}')) == ["tools", "insert"]


def test_text_between_go_actions_is_not_read() -> None:
    assert list(go_capabilities("{{ .Prompt }} .Tools }} {{ .System }}")) == []


GO = "{{ .Prompt }}"
GO_TOOLS = "{{ .Tools }}"
GO_CALLS = "{{ .Tools }}{{ range .Messages }}{{ .ToolCalls }}{{ end }}"
BROKEN = "{{ .Tools "
JINJA = "{{ messages[0].content }}"
JINJA_TOOLS = "{{ tools }}"
JINJA_CALLS = "{{ tools }}{{ messages[0].tool_calls }}"
JINJA_THINKS = "{{ tools }}<think></think>"


@pytest.mark.parametrize(
    ("template", "chat_template", "go_template", "selected"),
    [
        ("", "", None, DEFAULT_TEMPLATE),
        (GO, "", False, GO),
        ("", JINJA, True, JINJA),
        (JINJA, JINJA_CALLS, True, JINJA),
        (GO, JINJA, None, GO),
        (GO, JINJA_TOOLS, None, JINJA_TOOLS),
        (GO, JINJA_TOOLS, True, GO),
        (GO_CALLS, JINJA, False, JINJA),
        (GO_TOOLS, JINJA_TOOLS, None, GO_TOOLS),
        (GO_TOOLS, JINJA_CALLS, None, JINJA_CALLS),
        (GO_CALLS, JINJA_CALLS, None, GO_CALLS),
        (GO_CALLS, JINJA_THINKS, None, GO_CALLS),
        (GO_TOOLS, JINJA_THINKS, None, JINJA_THINKS),
        (GO_CALLS, JINJA_CALLS + JINJA_THINKS, None, JINJA_CALLS + JINJA_THINKS),
        (BROKEN, JINJA, None, JINJA),
        (BROKEN, JINJA, True, BROKEN),
    ],
)
def test_the_template_that_can_do_more_is_selected(
    template: str, chat_template: str, go_template: bool | None, selected: str
) -> None:
    assert select_template(template, chat_template, go_template) == selected


@pytest.mark.parametrize("part", ["{{", "{{ ", "{{ x ", " ", "{{ a", "split(", "split( '"])
def test_hostile_templates_are_judged_in_linear_time(part: str) -> None:
    """Models bring their templates, and a search in `re` lets no other thread run."""
    text = "{{" + part * (NUM_CHARACTERS // len(part))
    started = time.process_time()

    is_go_template(text)
    list(go_capabilities(text))
    list(jinja_capabilities(text))

    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "mark", ["[THINK]", "<|START_THINKING|>", "<|channel>thought", "<|channel|>analysis"]
)
def test_every_way_to_write_thinking_shows_a_model_that_thinks(mark: str) -> None:
    assert list(jinja_capabilities(f"{{{{ messages }}}}{mark}")) == ["thinking"]


@pytest.mark.parametrize(
    ("parser", "capabilities"),
    [
        ("", []),
        ("passthrough", []),
        ("qwen3-coder", ["tools"]),
        ("qwen3", ["tools", "thinking"]),
        ("harmony", ["tools", "thinking"]),
    ],
)
def test_a_parser_shows_what_its_models_write(parser: str, capabilities: list[str]) -> None:
    assert list(parser_capabilities(parser)) == capabilities
