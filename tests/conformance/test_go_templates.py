"""Models with a TEMPLATE in Go's language, end to end: create, show, list, generate, chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

Create = Callable[[str], str]

NAME = "go-template"
QUESTION = "Why is the sky blue?"
GREEDY = {"temperature": 0, "num_predict": 8}
# What the chat template in the weights does.
CHAT = """{{- if not .System }}<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
FIM = "{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ else }}{{ .Prompt }}{{ end }}"


@pytest.fixture
def create(daemon: Daemon, client: ollama.Client, tmp_path: Path) -> Iterator[Create]:
    """`olla create` with this TEMPLATE gives its error; the model is gone after the test."""

    def run(template: str) -> str:
        modelfile = tmp_path / "Modelfile"
        modelfile.write_text(f'FROM {MODEL}\nTEMPLATE """{template}"""\n')
        done = daemon.run("create", NAME, "-f", str(modelfile))
        return done.stderr.splitlines()[-1] if done.returncode else ""

    yield run
    daemon.ask("DELETE", "/api/delete", {"model": NAME})


def rendered(daemon: Daemon, path: str, **fields: object) -> str:
    body = {"model": NAME, "stream": False, "_debug_render_only": True, **fields}
    answer = daemon.ask("POST", f"/api/{path}", body)
    assert answer.status == 200, answer
    return str(answer.json["_debug_info"]["rendered_template"])


def test_a_model_with_a_go_template_answers_as_with_the_same_in_jinja(
    daemon: Daemon, client: ollama.Client, create: Create
) -> None:
    assert create(CHAT) == ""

    ours = client.chat(NAME, [{"role": "user", "content": QUESTION}], options=GREEDY)
    theirs = client.chat(MODEL, [{"role": "user", "content": QUESTION}], options=GREEDY)

    assert client.show(NAME).template == CHAT
    assert daemon.run("show", NAME, "--template").stdout == CHAT
    assert ours.message.content == theirs.message.content
    assert ours.prompt_eval_count == theirs.prompt_eval_count


def test_a_template_with_a_suffix_can_insert(
    daemon: Daemon, client: ollama.Client, create: Create
) -> None:
    assert create(FIM) == ""

    listed = daemon.ask("GET", "/api/tags").json["models"]

    assert client.show(NAME).capabilities == ["completion", "insert"]
    assert [m["capabilities"] for m in listed if m["name"] == f"{NAME}:latest"] == [
        ["completion", "insert"]
    ]
    assert rendered(daemon, "generate", prompt="a", suffix="b", system="S") == "<P>a<S>b<M>"
    assert rendered(daemon, "generate", prompt="a") == "a"


def test_a_template_that_does_not_parse_makes_no_model(daemon: Daemon, create: Create) -> None:
    error = create("{{ .Prompt }}\n{{ if }}")

    assert error == "Error: 400 Bad Request: template error: line 2 column 7: missing value for if"
    assert daemon.ask("POST", "/api/show", {"model": NAME}).status == 404


def test_a_request_may_bring_a_template_in_go(daemon: Daemon, client: ollama.Client) -> None:
    template = "{{ .System }}|{{ range .Messages }}{{ .Role }}:{{ .Content }}|{{ end }}"

    text = rendered(daemon, "generate", model=MODEL, prompt="Hi", system="S", template=template)

    assert text == "S|system:S|user:Hi|"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ range 1000000000 }}{{ end }}", "template error: it takes more than "),
        ("{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}",
         "template error: it goes more than 80 levels deep"),
        ("{{ range 100000 }}{{ $.Messages }}" + "x" * 1000 + "{{ end }}",
         "template error: it makes more than 8388608 characters"),
        ("{{ .Prompt.Name }}", "template error: line 1 column 4: can't evaluate field Name in "),
        ("{{ if .Prompt }}", "template error: line 1 column 17: expected {{end}} of {{if}}"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_the_clients_mistake(
    daemon: Daemon, client: ollama.Client, template: str, error: str
) -> None:
    request = {"model": MODEL, "prompt": "x", "template": template}

    answer = daemon.ask("POST", "/api/generate", request)

    assert answer.status == 400
    assert answer.error.startswith(error)
