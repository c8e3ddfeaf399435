"""Calls that a small model has to make, through every dialect that can require one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

NAME = "smollm2-tools"
TEMPLATE = """{{- if .Tools }}<|im_start|>system
You may call: {{ .Tools }}<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{{ .Function.Name }}{{ end }}
{{- end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
UNITS = ["celsius", "fahrenheit"]
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"enum": UNITS}},
    "required": ["unit"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "How warm is it? Do not call anything."}]


@pytest.fixture(scope="module")
def model(
    daemon: Daemon, client: ollama.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    modelfile: Path = tmp_path_factory.mktemp("tools") / "Modelfile"
    modelfile.write_text(f'FROM {MODEL}\nTEMPLATE """{TEMPLATE}"""\nPARAMETER seed 1\n')
    assert daemon.run("create", NAME, "-f", str(modelfile)).returncode == 0
    yield NAME
    client.delete(NAME)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_openai(daemon: Daemon, model: str, choice: object, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")
    tools = [
        {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
        for name in ("weather", "forecast")
    ]
    asked = {"model": model, "messages": QUESTION, "tools": tools, "tool_choice": choice}

    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
        calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        (answer,) = client.chat.completions.create(**asked).choices  # type: ignore[call-overload]
        calls, content = answer.message.tool_calls, answer.message.content
        reason = answer.finish_reason

    (call,) = calls
    assert call.function.name in (["weather", "forecast"] if choice == "required" else ["weather"])
    assert call.function.arguments in [f'{{"unit":"{unit}"}}' for unit in UNITS]
    assert (content, reason) == ("", "tool_calls")


def test_a_model_that_knows_no_tools_calls_when_it_has_to(
    daemon: Daemon, client: ollama.Client
) -> None:
    """Its template shows none, so they are described in words; left the choice, it is refused."""
    api = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    asked = {"model": MODEL, "messages": QUESTION, "tools": tools}

    (answer,) = api.chat.completions.create(**asked, tool_choice="required").choices  # type: ignore[call-overload]

    (call,) = answer.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["unit"] in UNITS
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        api.chat.completions.create(**asked)  # type: ignore[call-overload]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_anthropic(daemon: Daemon, model: str, choice: dict[str, str]) -> None:
    client = anthropic.Anthropic(base_url=daemon.url, api_key="none")

    answer = client.messages.create(  # type: ignore[call-overload]
        model=model,
        max_tokens=64,
        messages=QUESTION,
        tools=[{"name": "weather", "input_schema": SCHEMA}],
        tool_choice=choice,
    )

    (block,) = answer.content
    assert (block.type, block.name, block.input["unit"] in UNITS) == ("tool_use", "weather", True)
    assert answer.stop_reason == "tool_use"


def test_responses(daemon: Daemon, model: str) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")

    answer = client.responses.create(  # type: ignore[call-overload]
        model=model,
        input="How warm is it?",
        tools=[{"type": "function", "name": "weather", "parameters": SCHEMA}],
        tool_choice="required",
    )

    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "weather")


def test_a_tool_whose_schema_cannot_be_compiled_is_refused(daemon: Daemon, model: str) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")
    broken = {"type": "object", "properties": {"a": {"type": "no such type"}}}

    with pytest.raises(
        openai.BadRequestError, match='the parameters of the tool "f" cannot be used'
    ):
        client.chat.completions.create(  # type: ignore[call-overload]
            model=model,
            messages=QUESTION,
            tools=[{"type": "function", "function": {"name": "f", "parameters": broken}}],
            tool_choice="required",
        )


def test_each_schema_s_references_are_its_own(daemon: Daemon, model: str) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")
    tree = {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/definitions/Leaf"}, "child": {"$ref": "#"}},
        "definitions": {"Leaf": {"const": 1}},
        "required": ["leaf"],
        "additionalProperties": False,
    }

    answer = client.chat.completions.create(  # type: ignore[call-overload]
        model=model,
        messages=QUESTION,
        tools=[{"type": "function", "function": {"name": 'plant "it"', "parameters": tree}}],
        tool_choice="required",
        logit_bias={},
    )

    (call,) = answer.choices[0].message.tool_calls
    node = json.loads(call.function.arguments)
    assert call.function.name == 'plant "it"'
    while node:
        assert node["leaf"] == 1
        node = node.get("child")


def test_without_a_choice_of_tools_any_model_answers(daemon: Daemon, client: ollama.Client) -> None:
    openai_client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none")

    answer = openai_client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL,
        messages=QUESTION,
        tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        tool_choice="none",
        max_tokens=4,
    )

    assert not answer.choices[0].message.tool_calls
