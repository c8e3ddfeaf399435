"""A second real model, of another family, through templates and the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

NAME = "gemma3-turns"
TEMPLATE = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start_of_turn>user
{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
HI = {"role": "user", "content": "Hi"}
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def model(
    daemon: Daemon, client: ollama.Client, gemma3: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    modelfile: Path = tmp_path_factory.mktemp("gemma") / "Modelfile"
    modelfile.write_text(f'FROM {gemma3}\nTEMPLATE """{TEMPLATE}"""\n')
    assert daemon.run("create", NAME, "-f", str(modelfile)).returncode == 0
    yield NAME
    client.generate(NAME, keep_alive=0)
    client.delete(NAME)


def test_a_chat_has_the_tokens_of_the_vendors_turns(client: ollama.Client, model: str) -> None:
    """Tags of turns are one token each: <bos>, three tags, user, Hi, model and three line ends."""
    whole = client.chat(model, [HI], options=GREEDY)
    pieces = list(client.chat(model, [HI], options=GREEDY, stream=True))

    assert whole.prompt_eval_count == 10
    assert whole.message.content
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content


def test_a_second_turn_goes_on_from_the_first(client: ollama.Client, model: str) -> None:
    first = client.chat(model, [HI], options=GREEDY)
    turns: list[Any] = [HI, {"role": "assistant", "content": first.message.content}, HI]

    second = client.chat(model, turns, options=GREEDY)

    assert (second.prompt_eval_count or 0) > 2 * 10
    assert second.message.content


def test_it_completes_texts_as_it_was_taught_to(client: ollama.Client, gemma3: str) -> None:
    options = {"temperature": 0, "num_predict": 8}

    reply = client.generate(gemma3, "<bos>1, 2, 3, 4, 5, 6,", raw=True, options=options)

    assert "7, 8" in (reply.response or "")
