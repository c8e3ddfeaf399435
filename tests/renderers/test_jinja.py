"""Chat templates in Jinja write what transformers writes, and cannot run away."""

from __future__ import annotations

import time

import pytest

from olla.errors import TemplateError
from olla.messages import Message, Tool, ToolCall
from olla.renderers.conversation import Conversation
from olla.renderers.jinja import MAX_TEMPLATE_CHARS, JinjaTemplate
from olla.renderers.limits import MAX_SECONDS, MAX_SIZE, MAX_WIDTH
from olla.renderers.sandbox import MAX_CODE_CHARS
from tests.renderers.templates import CHATML, LLAMA_LIKE

HI = Conversation((Message("user", "Hi"),))
GROW = "{%% set n = namespace(s=%s) %%}{%% for i in range(99) %%}{%% set n.s = %s %%}{%% endfor %%}"
SHOW = GROW + "{{ n.s }}"
GROW_BLOCK = (
    "{% set n = namespace(s='ab') %}{% for i in range(99) %}"
    "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}"
)
A_MEGABYTE = "('a' * 1000000)"

TIME = f"it took longer than {MAX_SECONDS:g} s"
SIZE = f"it makes a value larger than {MAX_SIZE} characters"
TOTAL = "it makes too much text"
CODE = f"it becomes more than {MAX_CODE_CHARS} characters of code"
WIDTH = f"an argument is larger than {MAX_WIDTH}"
FORMAT = "a format has a width that is too large or not fixed"
NUMBER = "it makes a number that is too large"

HOSTILE = [
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    ("{% for a in range(9999) %}{{ range(99999) | map('upper') | list }}{% endfor %}", TIME),
    ("{{ ('ab' * 2000000) | sort }}", TIME),
    ("{{a.b.c}}" * 14000, "it "),
    ("{{" + "a~" * 65000 + "a}}", "it "),
    ("".join(f"{{% block a{i} %}}{{% endblock %}}" for i in range(3800)), CODE),
    (SHOW % ("[]", "[n.s, n.s]"), "it "),
    (SHOW % ("{}", "{'a': n.s, 'b': n.s}"), "it "),
    (SHOW % ("namespace()", "namespace(a=n.s, b=n.s)"), "it "),
    (SHOW % ("{1: 1}", "{1: [n.s.items(), n.s.items()]}"), "it "),
    ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", "it "),
    ("{{ 'a' * 10**9 }}", SIZE),
    ("{{ 10**9 * [0] }}", SIZE),
    ("{{ ('\\n' * 8000000) | indent(1000) }}", SIZE),
    (GROW % ("'ab'", "n.s + n.s"), SIZE),
    (GROW % ("'ab'", "n.s ~ n.s"), SIZE),
    (GROW % ("'ab'", "[n.s, n.s] | join(n.s)"), SIZE),
    (GROW % ("'ab'", "n.s.join([n.s, n.s])"), SIZE),
    (GROW % ("'ab'", "n.s | replace('', n.s)"), SIZE),
    (GROW % ("'ab'", "'%s%s' % (n.s, n.s)"), SIZE),
    (GROW % ("'ab'", "'{0}{0}'.format(n.s)"), SIZE),
    (GROW % ("['ab']", "n.s + n.s"), "it "),
    (GROW_BLOCK, SIZE),
    (f"{{{{ {A_MEGABYTE}.replace('a', {A_MEGABYTE}) }}}}", SIZE),
    ("{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", SIZE),
    ("{% for a in range(99999) %}{% set b = 'a' * 8000000 %}{% endfor %}", TOTAL),
    ("{{ 'a' | center(10**9) }}", WIDTH),
    ("{{ 'a'.ljust(10**9) }}", WIDTH),
    ("{{ [1] | batch(10**9, 1) | list }}", WIDTH),
    ("{{ 3 | round(10**9, 'ceil') }}", WIDTH),
    ("{{ [1] | tojson(indent=10**9) }}", WIDTH),
    ("{{ ('a' * 8000000).strip('b' * 8000000 ~ 'a') }}", WIDTH),
    ("{{ '%1000000000d' % 1 }}", FORMAT),
    ("{{ '%*d' % (10**9, 1) }}", FORMAT),
    ("{{ '%1000000000d' | format(1) }}", FORMAT),
    ("{{ '{:1000000000}'.format(1) }}", FORMAT),
    ("{{ '{:{}}'.format(1, 10**9) }}", FORMAT),
    ("{{ 9 ** 99999 }}", NUMBER),
    (GROW % ("9", "n.s * n.s"), NUMBER),
    ("{{ [[1]] | sum(start=[]) }}", "sum() may not have a start"),
    ("{{ (1).to_bytes(10**9, 'big') }}", "to_bytes() may not be used in a template"),
    ("{{ 'a'.expandtabs(10**9) }}", "expandtabs() may not be used in a template"),
    ("{{ 'a'.translate({97: 'b'}) }}", "translate() may not be used in a template"),
    ("{{ 'a'.encode().center(10**9) }}", "center() may not be used in a template"),
    ("{{ 'a'.encode() % 1 }}", "bytes may not be formatted"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded"),
    ("{{ " + "(" * 9999 + ")" * 9999 + " }}", "maximum recursion depth exceeded"),
    ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
]


# The interrupt may arrive inside a finalizer, where it is lost, and is then sent again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("template", "reason"), HOSTILE)
def test_a_hostile_template_is_ended_within_two_seconds(template: str, reason: str) -> None:
    started = time.thread_time()

    with pytest.raises(TemplateError) as caught:
        JinjaTemplate(template).render(HI)

    assert time.thread_time() - started < 2
    assert str(caught.value).startswith(f"template error: {reason}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ dict.update(messages[0], {}) }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ namespace.__self__.limits }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{% include '/etc/passwd' %}",
        "{{ lipsum() }}",
        "{{ 'x' | urlize }}",
    ],
)
def test_a_template_reaches_nothing_but_its_variables(template: str) -> None:
    with pytest.raises(TemplateError):
        JinjaTemplate(template).render(HI)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[1].tool_calls[0].function.arguments.update(x=1) }}",
        "{{ messages[1].tool_calls[0].function.arguments.pop('a') }}",
        "{{ messages[1].tool_calls.clear() }}",
        "{{ tools[0].function.parameters.clear() }}",
        "{{ tools[0].function.parameters.required.append('y') }}",
        "{{ tools | map('pop') | list }}",
        "{% set m = tools[0].function %}{{ m.setdefault('z', 1) }}",
        "{% set tools[0].name = 1 %}",
    ],
)
def test_a_template_cannot_change_what_it_is_given(template: str) -> None:
    arguments, parameters = {"a": [1]}, {"required": ["x"]}
    turns = (*HI.messages, Message("assistant", tool_calls=(ToolCall("f", arguments),)))

    with pytest.raises(TemplateError):
        JinjaTemplate(template).render(Conversation(turns, (Tool("f", "", parameters),)))

    assert (arguments, parameters) == ({"a": [1]}, {"required": ["x"]})


def test_a_template_serves_again_after_it_was_ended() -> None:
    template = JinjaTemplate(
        "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    with pytest.raises(TemplateError):
        template.render(Conversation((Message("user", "loop"),)))

    assert template.render(HI) == "Hi"


def test_a_template_too_long_to_read_is_refused() -> None:
    with pytest.raises(TemplateError) as caught:
        JinjaTemplate("x" * (MAX_TEMPLATE_CHARS + 1))

    assert str(caught.value) == "template error: it is longer than 131072 characters"


def test_a_syntax_error_tells_its_line() -> None:
    with pytest.raises(TemplateError) as caught:
        JinjaTemplate("one\n{% for %}")

    assert str(caught.value).startswith("template error: line 2: ")


def test_a_template_that_refuses_gives_its_own_reason() -> None:
    with pytest.raises(TemplateError) as caught:
        JinjaTemplate(LLAMA_LIKE).render(Conversation((Message("sage", "Hm"),), bos_token="<s>"))

    assert str(caught.value) == "template error: no such role: sage"


@pytest.mark.parametrize(
    ("content", "end"),
    [("Once upon", "Once upon"), ("Once upon ", "Once upon "), ("", "")],
)
def test_a_last_turn_of_the_assistant_is_continued(content: str, end: str) -> None:
    turns = (*HI.messages, Message("assistant", content))

    text = JinjaTemplate(CHATML).render(Conversation(turns))

    assert text.endswith("<|im_start|>assistant\n" + end)


def test_a_turn_that_the_template_leaves_out_cannot_be_continued() -> None:
    turns = (*HI.messages, Message("assistant", "Once"))

    with pytest.raises(TemplateError, match="leaves out the assistant's turn"):
        JinjaTemplate("{{ messages[0].content }}").render(Conversation(turns))


@pytest.mark.parametrize(
    ("think", "text"),
    [(None, "-/-"), (False, "False/-"), (True, "True/medium"), ("high", "True/high")],
)
def test_think_reaches_the_template(think: bool | str | None, text: str) -> None:
    template = "{{ enable_thinking | default('-') }}/{{ reasoning_effort | default('-') }}"

    assert JinjaTemplate(template).render(Conversation(HI.messages, think=think)) == text
