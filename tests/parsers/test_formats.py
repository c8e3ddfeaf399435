"""Every format of calls: one, several, nested values, tags as text, and what is no call."""

from __future__ import annotations

import time
from typing import Any

import pytest

from olla.parsers.base import CallStyle, Delta, OutputParser
from olla.parsers.formats import PARSERS, ReplyFormat, detect
from olla.registry.capabilities import Capability, parser_capabilities
from tests.parsers.cutting import TOOLS, calls, parse, run

Q = '<|"|>'
NESTED: dict[str, object] = {"city": 'é "世" 🙂\n', "spot": {"a": [1, 2.5, None, {"b": True}]}}
NESTED_JSON = '{"city": "é \\"世\\" 🙂\\n", "spot": {"a": [1, 2.5, null, {"b": true}]}}'


def calls_parser(name: str) -> OutputParser:
    format_ = PARSERS[name].calls
    assert format_ is not None
    return format_.parser(TOOLS)


CASES: list[tuple[str, str, Delta]] = [
    # qwen3
    (
        "qwen3",
        'ok \n<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>',
        Delta(content="ok", tool_calls=calls(("get", {"a": 1}))),
    ),
    (
        "qwen3",
        '<tool_call>{"name":"get","arguments":{}}</tool_call>\n'
        f'<tool_call>{{"name":"get_weather","arguments":{NESTED_JSON}}}</tool_call> bye',
        Delta(content="bye", tool_calls=calls(("get", {}), ("get_weather", NESTED))),
    ),
    (
        "qwen3",
        '<tool_call>{"name":"get","arguments":{"x":"</tool_call> \\"<tool_call>\\\\"}}</tool_call>',
        Delta(tool_calls=calls(("get", {"x": '</tool_call> "<tool_call>\\'}))),
    ),
    (
        "qwen3",
        '<tool_call>{"name":"get","arguments":"{\\"a\\": 1}"}</tool_call>',
        Delta(tool_calls=calls(("get", {"a": 1}))),
    ),
    (
        "qwen3",
        '<tool_call>{"name":"get","arguments":{}}\n{"name":"get","arguments":{"a":2}}</tool_call>',
        Delta(tool_calls=calls(("get", {}), ("get", {"a": 2}))),
    ),
    (
        "qwen3",
        '<tool_call>{"name":"get"}\n<tool_call>{"name":"get","arguments":{"a":2}}</tool_call>',
        Delta(tool_calls=calls(("get", {}), ("get", {"a": 2}))),
    ),
    ("qwen3", '<tool_call>{"name":"get"}', Delta(tool_calls=calls(("get", {})))),
    ("qwen3", 'a <tool_call>{"name":"get",', Delta(content='a {"name":"get",')),
    ("qwen3", "a <tool_call>{'x'}</tool_call> b", Delta(content="a {'x'} b")),
    ("qwen3", "<tool_call>{} NaN</tool_call>", Delta(content="{} NaN")),
    ("qwen3", "1 < 2 <tool", Delta(content="1 < 2 <tool")),
    (
        "qwen3",
        '<tool_call>{"name":"get","arguments":{"s":"\\ud800"}}</tool_call>',
        Delta(tool_calls=calls(("get", {"s": "\ufffd"}))),
    ),
    # qwen3-coder
    (
        "qwen3-coder",
        "ok\n<tool_call>\n<function=get_weather>\n<parameter=city>\nA\n\nB </tool_call>\n"
        "</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=hot>\nTrue\n</parameter>\n"
        '<parameter=tags>\n["x", 1]\n</parameter>\n<parameter=other>\n7\n</parameter>\n'
        "</function>\n</tool_call>",
        Delta(
            content="ok",
            tool_calls=calls(
                (
                    "get_weather",
                    {
                        "city": "A\n\nB </tool_call>",
                        "days": 3,
                        "hot": True,
                        "tags": ["x", 1],
                        "other": "7",
                    },
                )
            ),
        ),
    ),
    (
        "qwen3-coder",
        "<tool_call><function=get></function></tool_call><tool_call><function=f>"
        "<parameter=a>null</parameter></function></tool_call>",
        Delta(tool_calls=calls(("get", {}), ("f", {"a": None}))),
    ),
    (
        "qwen3-coder",
        "<tool_call><function=get><parameter=a>1",
        Delta(content="<function=get><parameter=a>1"),
    ),
    # deepseek3
    (
        "deepseek3",
        "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{}<｜tool▁call▁end｜>\n"
        f"<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{NESTED_JSON}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        Delta(content="ok", tool_calls=calls(("get", {}), ("get_weather", NESTED))),
    ),
    (
        "cogito",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n"
        '{"a": "<｜tool▁call▁end｜>"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        Delta(tool_calls=calls(("get", {"a": "<｜tool▁call▁end｜>"}))),
    ),
    (
        "deepseek3",
        "<｜tool▁call▁begin｜>get<｜tool▁sep｜>[1]<｜tool▁call▁end｜>",
        Delta(content="get<｜tool▁sep｜>[1]"),
    ),
    # glm
    (
        "glm-4.7",
        "ok\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>42</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2.0</arg_value><arg_key>spot</arg_key><arg_value>"
        '{"a": "</tool_call>"}</arg_value>\n</tool_call><tool_call>get</tool_call>',
        Delta(
            content="ok",
            tool_calls=calls(
                ("get_weather", {"city": "42", "days": 2, "spot": {"a": "</tool_call>"}}),
                ("get", {}),
            ),
        ),
    ),
    ("laguna", "<tool_call>get<arg_key>a", Delta(content="get<arg_key>a")),
    # gemma4 and functiongemma
    (
        "gemma4",
        f'ok <|tool_call>call:get_weather{{city:{Q}é 世 "}}<tool_call|>{Q},spot:{{a:[1,2.5,null,'
        f"{{b:true}}]}}}}<tool_call|><|tool_call>call:get{{}}<tool_call|>",
        Delta(
            content="ok",
            tool_calls=calls(
                (
                    "get_weather",
                    {"city": 'é 世 "}<tool_call|>', "spot": {"a": [1, 2.5, None, {"b": True}]}},
                ),
                ("get", {}),
            ),
        ),
    ),
    ("gemma4", f"<|tool_call>call:get{{a:{Q}x", Delta(content=f"call:get{{a:{Q}x")),
    (
        "functiongemma",
        "<start_function_call>call:get{a:<escape>x, y<escape>,b:-3}<end_function_call>",
        Delta(tool_calls=calls(("get", {"a": "x, y", "b": -3}))),
    ),
    # ministral
    (
        "ministral",
        f'ok [TOOL_CALLS]get[ARGS]{{"a": "]}}"}}[TOOL_CALLS]get_weather[ARGS]{NESTED_JSON}',
        Delta(content="ok", tool_calls=calls(("get", {"a": "]}"}), ("get_weather", NESTED))),
    ),
    (
        "ministral",
        '[TOOL_CALLS] [{"name": "get", "arguments": {}}, {"name": "get", "arguments": {"a": 2}}]',
        Delta(tool_calls=calls(("get", {}), ("get", {"a": 2}))),
    ),
    (
        "ministral",
        '[TOOL_CALLS]get[CALL_ID]abc123[ARGS]{"a": [1]} bye',
        Delta(content="bye", tool_calls=calls(("get", {"a": [1]}))),
    ),
    ("ministral", '[TOOL_CALLS]get[ARGS]{"a": ', Delta(content='get[ARGS]{"a": ')),
    # lfm2 and olmo3
    (
        "lfm2",
        'ok <|tool_call_start|>[get_weather(city="é )] <|tool_call_end|>", '
        "spot={'a': [1, 2.5, None, {\"b\": True}]}), get()]<|tool_call_end|>bye",
        Delta(
            content="okbye",
            tool_calls=calls(
                (
                    "get_weather",
                    {
                        "city": "é )] <|tool_call_end|>",
                        "spot": {"a": [1, 2.5, None, {"b": True}]},
                    },
                ),
                ("get", {}),
            ),
        ),
    ),
    (
        "lfm2",
        "<|tool_call_start|>[__import__('os').system('x')]<|tool_call_end|>",
        Delta(content="[__import__('os').system('x')]"),
    ),
    (
        "olmo3",
        '<function_calls>\nget(a="it\'s\\n\\u00e9")\nget_weather(days=-3)\n</function_calls>',
        Delta(tool_calls=calls(("get", {"a": "it's\né"}), ("get_weather", {"days": -3}))),
    ),
    # cohere
    (
        "cohere",
        "<|START_TEXT|>ok<|END_TEXT|><|START_ACTION|>[\n"
        '{"tool_call_id": "0", "tool_name": "get", "parameters": {"a": 1}},\n'
        '{"tool_call_id": "1", "tool_name": "get", "parameters": {"a": "<|END_ACTION|>"}}\n'
        "]<|END_ACTION|>",
        Delta(content="ok", tool_calls=calls(("get", {"a": 1}), ("get", {"a": "<|END_ACTION|>"}))),
    ),
    ("cohere", "<|START_RESPONSE|>Hi there<|END_RESPONSE|>", Delta(content="Hi there")),
]


@pytest.mark.parametrize(("name", "reply", "parsed"), CASES)
def test_calls_are_read_wherever_the_stream_is_cut(name: str, reply: str, parsed: Delta) -> None:
    assert parse(lambda: calls_parser(name), reply) == parsed


def test_a_call_comes_as_soon_as_it_is_complete() -> None:
    parser = calls_parser("qwen3")

    assert not parser.push('<tool_call>{"name":"get","arguments":{}}</tool_cal')
    assert parser.push("l>").tool_calls[0].name == "get"


def test_whitespace_is_held_until_it_is_followed_by_text() -> None:
    parser = calls_parser("qwen3")

    assert parser.push("a \n") == Delta(content="a")
    assert parser.push("b") == Delta(content=" \nb")


FORMATS = {reply.calls: name for name, reply in PARSERS.items() if reply.calls}


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 5) for name in FORMATS.values()), ("qwen3", 200_000), ("ministral", 200_000)],
)
def test_long_replies_take_time_in_proportion(name: str, size: int) -> None:
    """A parser that looked at all of the text again for each piece would take minutes."""
    format_ = PARSERS[name].calls
    assert format_ is not None
    begin = format_.format.begin if format_.format else ""
    body = begin + '{"<a> [b] \\" ' * 5_000 + " " * 20_000 + "</tool" * 10_000
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    started = time.process_time()

    run(format_.parser(TOOLS), pieces)

    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("<tool_call> {{ x }} <think></think>", CallStyle.JSON_ARGUMENTS),
        ("<tool_call><function=", CallStyle.PARAMETER_TAGS),
        ("<tool_call> <arg_key>", CallStyle.ARGUMENT_TAGS),
        ("<｜tool▁calls▁begin｜>", CallStyle.NAME_THEN_JSON),
        ("<|tool_call>call:", CallStyle.BRACES),
        ("<start_function_call>", CallStyle.BRACES),
        ("[TOOL_CALLS] [", CallStyle.JSON_LIST),
        ("[TOOL_CALLS]x[ARGS]", CallStyle.NAME_THEN_JSON),
        ("<|tool_call_start|>", CallStyle.PYTHON),
        ("<function_calls>", CallStyle.PYTHON),
        ("<|START_ACTION|>", CallStyle.COHERE_LIST),
        ("<|python_tag|>", CallStyle.JSON_PARAMETERS),
        ('{"name": function name, "parameters": ...}', CallStyle.JSON_PARAMETERS),
    ],
)
def test_a_template_shows_how_calls_are_written(template: str, style: CallStyle) -> None:
    found = detect(template).calls

    assert found is not None
    assert found.format is not None
    assert found.format.style is style


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        ("<think></think>", "<think>"),
        ("content.split('</think>')", "<think>"),
        ("[THINK][/THINK]", "[THINK]"),
        ("<|START_THINKING|>", "<|START_THINKING|>"),
        ("<|channel>thought\n<channel|>", "<|channel>thought"),
        ("{{ messages }}", None),
    ],
)
def test_a_template_shows_the_tags_of_thinking(template: str, opening: str | None) -> None:
    found: Any = detect(template).thinking

    assert (found and found.opening) == opening


@pytest.mark.parametrize(("name", "reply"), PARSERS.items())
def test_the_registry_knows_what_each_parser_reads(name: str, reply: ReplyFormat) -> None:
    capabilities = set(parser_capabilities(name))

    assert (Capability.TOOLS in capabilities) == bool(reply.calls or reply.is_harmony)
    assert (Capability.THINKING in capabilities) == bool(reply.thinking or reply.is_harmony)
