"""Every combination of thinking, streaming, tools and format in every dialect: each reply is valid.

One small model with a template that thinks and calls, and does not show the tools, since the model
would only think longer. What a dialect cannot express is no case of its: Ollama's has no
tool_choice, Anthropic's no JSON without a schema. Every second case goes through the clients'
synchronous kind.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import running_daemon

pytestmark = pytest.mark.weights

NAME = "smollm2-matrix"
TEMPLATE = """{{- range .Tools }}{{ end }}
{{- if .Think }}<|im_start|>user
Say {"unit": "celsius"}.<|im_end|>
<|im_start|>assistant
<think>
Easy.
</think>

{"unit": "celsius"}<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
QUESTION = [{"role": "user", "content": 'Say {"unit": "celsius"}.'}]
UNITS = ["celsius", "fahrenheit"]
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"enum": UNITS}},
    "required": ["unit"],
    "additionalProperties": False,
}
TOOLS = ("weather", "forecast")
TAGS = ("think>", "tool_call>", "<|im_")
MAX_TOKENS = 40
MAX_AT_ONCE = 24

DIALECTS = ("native", "openai", "anthropic", "responses")
THINKING = ("on", "off", "absent")
CHOICES = ("none", "auto", "required", "named")
FORMATS = ("none", "json", "schema")


@dataclass(frozen=True)
class Case:
    dialect: str
    think: str
    stream: bool
    choice: str
    format: str

    @property
    def can_be_asked(self) -> bool:
        if self.dialect == "native":
            return self.choice in {"none", "auto"}
        return self.dialect != "anthropic" or self.format != "json"


@dataclass(frozen=True)
class Said:
    """A reply, as all dialects have it. `is_cut`: its tokens ran out."""

    thinking: str
    content: str
    calls: tuple[tuple[str, dict[str, Any]], ...]
    is_cut: bool


CASES = [
    case
    for values in itertools.product(DIALECTS, THINKING, (False, True), CHOICES, FORMATS)
    if (case := Case(*values)).can_be_asked
]


class Clients:
    """The official clients, of both kinds."""

    def __init__(self, url: str) -> None:
        keyed: dict[str, Any] = {"api_key": "any", "max_retries": 0, "timeout": 300}
        self.ollama = ollama.Client(url), ollama.AsyncClient(url)
        self.openai = (
            openai.OpenAI(base_url=f"{url}/v1", **keyed),
            openai.AsyncOpenAI(base_url=f"{url}/v1", **keyed),
        )
        self.anthropic = (
            anthropic.Anthropic(base_url=url, **keyed),
            anthropic.AsyncAnthropic(base_url=url, **keyed),
        )

    async def close(self) -> None:
        for client, asynchronous in (self.openai, self.anthropic):
            client.close()
            await asynchronous.close()
        self.ollama[0].close()  # type: ignore[no-untyped-call]
        await self.ollama[1].close()  # type: ignore[no-untyped-call]


async def everything(
    call: tuple[Callable[..., Any], Callable[..., Any]], asked: dict[str, Any], is_async: bool
) -> Any:
    """The reply, or the list of what was streamed."""
    if is_async:
        found = await call[1](**asked)
        return [item async for item in found] if isinstance(found, AsyncIterator) else found

    def block() -> Any:
        found = call[0](**asked)
        return list(found) if isinstance(found, Iterator) else found

    return await asyncio.to_thread(block)


async def ask_native(clients: Clients, case: Case, is_async: bool) -> Said:
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": QUESTION,
        "stream": case.stream,
        "options": {"num_predict": MAX_TOKENS},
        "format": {"none": None, "json": "json", "schema": SCHEMA}[case.format],
    }
    if case.think != "absent":
        asked["think"] = case.think == "on"
    if case.choice != "none":
        asked["tools"] = [function(name) for name in TOOLS]
    found = await everything((clients.ollama[0].chat, clients.ollama[1].chat), asked, is_async)
    parts = found if case.stream else [found]
    return Said(
        "".join(part.message.thinking or "" for part in parts),
        "".join(part.message.content or "" for part in parts),
        tuple(
            (call.function.name, dict(call.function.arguments))
            for part in parts
            for call in part.message.tool_calls or ()
        ),
        parts[-1].done_reason == "length",
    )


async def ask_openai(clients: Clients, case: Case, is_async: bool) -> Said:
    formats = {
        "json": {"type": "json_object"},
        "schema": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    }
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": QUESTION,
        "stream": case.stream,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "tools": [function(name) for name in TOOLS],
        "tool_choice": case.choice if case.choice != "named" else function(TOOLS[0], bare=True),
    }
    if case.think != "absent":
        asked["reasoning_effort"] = "high" if case.think == "on" else "none"
    if case.format != "none":
        asked["response_format"] = formats[case.format]
    made = [client.chat.completions.create for client in clients.openai]
    found = await everything((made[0], made[1]), asked, is_async)
    parts = [part.choices[0] for part in (found if case.stream else [found])]
    messages = [part.delta if case.stream else part.message for part in parts]
    return Said(
        "".join(getattr(message, "reasoning", None) or "" for message in messages),
        "".join(message.content or "" for message in messages),
        tuple(
            (call.function.name, json.loads(call.function.arguments))
            for message in messages
            for call in message.tool_calls or ()
        ),
        parts[-1].finish_reason == "length",
    )


async def ask_anthropic(clients: Clients, case: Case, is_async: bool) -> Said:
    choices = {"none": "none", "auto": "auto", "required": "any", "named": "tool"}
    named = {"name": TOOLS[0]} if case.choice == "named" else {}
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": QUESTION,
        "stream": case.stream,
        "max_tokens": MAX_TOKENS,
        "tools": [{"name": name, "input_schema": SCHEMA} for name in TOOLS],
        "tool_choice": {"type": choices[case.choice], **named},
    }
    if case.think == "on":
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    elif case.think == "off":
        asked["thinking"] = {"type": "disabled"}
    if case.format == "schema":
        asked["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    made = [client.messages.create for client in clients.anthropic]
    found = await everything((made[0], made[1]), asked, is_async)
    return of_events(found) if case.stream else of_blocks(found.content, found.stop_reason)


def of_blocks(blocks: Iterable[Any], stop_reason: str) -> Said:
    blocks = list(blocks)
    return Said(
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        "".join(block.text for block in blocks if block.type == "text"),
        tuple((block.name, block.input) for block in blocks if block.type == "tool_use"),
        stop_reason == "max_tokens",
    )


def of_events(events: list[Any]) -> Said:
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    starts = [event.content_block for event in events if event.type == "content_block_start"]
    names = [block.name for block in starts if block.type == "tool_use"]
    inputs = [json.loads(d.partial_json) for d in deltas if d.type == "input_json_delta"]
    (end,) = [event.delta for event in events if event.type == "message_delta"]
    return Said(
        "".join(delta.thinking for delta in deltas if delta.type == "thinking_delta"),
        "".join(delta.text for delta in deltas if delta.type == "text_delta"),
        tuple(zip(names, inputs, strict=True)),
        end.stop_reason == "max_tokens",
    )


async def ask_responses(clients: Clients, case: Case, is_async: bool) -> Said:
    formats = {
        "json": {"type": "json_object"},
        "schema": {"type": "json_schema", "name": "a", "schema": SCHEMA},
    }
    named = {"type": "function", "name": TOOLS[0]}
    asked: dict[str, Any] = {
        "model": NAME,
        "input": QUESTION,
        "stream": case.stream,
        "temperature": 0,
        "max_output_tokens": MAX_TOKENS,
        "tools": [{"type": "function", "name": name, "parameters": SCHEMA} for name in TOOLS],
        "tool_choice": named if case.choice == "named" else case.choice,
    }
    if case.think != "absent":
        asked["reasoning"] = {"effort": "high" if case.think == "on" else "none"}
    if case.format != "none":
        asked["text"] = {"format": formats[case.format]}
    made = [client.responses.create for client in clients.openai]
    found = await everything((made[0], made[1]), asked, is_async)
    response = found[-1].response if case.stream else found
    reasoning = [item for item in response.output if item.type == "reasoning"]
    return Said(
        "".join(part.text for item in reasoning for part in (item.summary or item.content or ())),
        response.output_text,
        tuple(
            (item.name, json.loads(item.arguments))
            for item in response.output
            if item.type == "function_call"
        ),
        response.status == "incomplete",
    )


ASK = {
    "native": ask_native,
    "openai": ask_openai,
    "anthropic": ask_anthropic,
    "responses": ask_responses,
}


def function(name: str, *, bare: bool = False) -> dict[str, Any]:
    described = {"name": name} if bare else {"name": name, "parameters": SCHEMA}
    return {"type": "function", "function": described}


def problems(case: Case, said: Said) -> Iterator[str]:
    """What is wrong with a reply; one that was cut may lack its end, and no more than that."""
    shown = (said.thinking, said.content, json.dumps(said.calls))
    if any(tag in text for tag in TAGS for text in shown):
        yield "a tag shows"
    if any(name not in TOOLS or not fits_schema(arguments) for name, arguments in said.calls):
        yield "a call that is none of a tool on offer"
    if case.think == "off" and said.thinking:
        yield "it thought unasked"
    if case.choice == "none" and said.calls:
        yield "a call that was ruled out"
    if not said.is_cut:
        yield from problems_of_a_whole(case, said)


def problems_of_a_whole(case: Case, said: Said) -> Iterator[str]:
    if case.choice in {"required", "named"}:
        names = [name for name, _ in said.calls]
        if len(names) != 1 or said.content:
            yield "not one call and nothing else"
        if case.choice == "named" and names != [TOOLS[0]]:
            yield "not a call of the tool that was named"
    elif case.format != "none" and not said.calls:
        try:
            value = json.loads(said.content)
        except ValueError:
            yield "no JSON"
            return
        if not isinstance(value, dict) or (case.format == "schema" and not fits_schema(value)):
            yield "no match of the format"


def fits_schema(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"unit"} and value["unit"] in UNITS


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Of a daemon of their own, which computes with the weights as they are stored: much faster."""
    home: Path = tmp_path_factory.mktemp("matrix")
    modelfile = home / "Modelfile"
    modelfile.write_text(
        f'FROM {MODEL}\nTEMPLATE """{TEMPLATE}"""\nPARSER qwen3\nPARAMETER temperature 0\n'
    )
    with running_daemon(home, OLLA_DTYPE="auto") as daemon:
        daemon.ask("POST", "/api/pull", {"model": MODEL, "stream": False})
        assert daemon.run("create", NAME, "-f", str(modelfile)).returncode == 0
        yield Clients(daemon.url)


async def test_every_combination_gives_a_valid_reply(clients: Clients) -> None:
    limit = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(number: int, case: Case) -> Said:
        async with limit:
            return await ASK[case.dialect](clients, case, bool(number % 2))

    try:
        replies = await asyncio.gather(*(ask(number, case) for number, case in enumerate(CASES)))
    finally:
        await clients.close()

    found = list(zip(CASES, replies, strict=True))
    wrong = [f"{what}: {case} {said}" for case, said in found for what in problems(case, said)]
    assert not wrong, "\n".join(wrong)
    whole = [(case, said) for case, said in found if not said.is_cut]
    assert len(whole) > len(CASES) / 2, "most of the replies are to come to an end"
    assert any(said.thinking and said.content for _, said in whole)
    assert any(said.thinking and said.calls for _, said in whole)
