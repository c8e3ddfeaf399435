"""What templates show of a model, at a cost that grows no faster than the template."""

from __future__ import annotations

import time

import pytest

from olla.registry.capabilities import (
    go_capabilities,
    is_go_template,
    jinja_capabilities,
    parser_capabilities,
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
