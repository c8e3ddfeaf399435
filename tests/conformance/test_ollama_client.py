"""The official Ollama client finds in olla what it finds in Ollama."""

from __future__ import annotations

from collections.abc import Callable

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

GREEDY = {"temperature": 0, "num_predict": 24, "seed": 1}
QUESTION = "Why is the sky blue?"


def test_pull_reports_its_layers_and_succeeds(client: ollama.Client) -> None:
    lines = list(client.pull(MODEL, stream=True))

    assert lines[0].status == "pulling manifest"
    layers = [line for line in lines if line.digest]
    assert layers and all(line.completed == line.total for line in layers)
    assert [line.status for line in lines[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]


def test_list_and_show_describe_the_model(client: ollama.Client) -> None:
    (listed,) = [model for model in client.list().models if model.model == MODEL]
    shown = client.show(MODEL)

    assert listed.size is not None and 98_000_000 < listed.size < 99_000_000
    assert listed.details is not None and shown.details is not None
    for details in (listed.details, shown.details):
        assert (details.format, details.family) == ("gguf", "llama")
        assert (details.parameter_size, details.quantization_level) == ("134.52M", "Q4_1")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.template is not None and "<|im_start|>" in shown.template


def test_generate_streams_what_it_gives_whole(client: ollama.Client) -> None:
    whole = client.generate(MODEL, QUESTION, options=GREEDY)
    chunks = list(client.generate(MODEL, QUESTION, options=GREEDY, stream=True))

    assert "".join(chunk.response or "" for chunk in chunks) == whole.response
    assert len(chunks) > 5
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for last in (whole, chunks[-1]):
        assert (last.done_reason, last.eval_count) == ("length", 24)
        assert last.prompt_eval_count == 36
        assert last.context is not None and len(last.context) == 36 + 24
        assert last.total_duration and last.eval_duration and last.prompt_eval_duration


def test_generate_goes_on_from_a_context(client: ollama.Client) -> None:
    first = client.generate(MODEL, "My name is Ada.", options=GREEDY)
    assert first.context is not None

    second = client.generate(MODEL, "What is my name?", context=first.context, options=GREEDY)

    assert second.context is not None
    assert list(second.context[: len(first.context)]) == list(first.context)
    assert second.prompt_eval_count == len(second.context) - 24 > len(first.context)


def test_chat_streams_what_it_gives_whole(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": QUESTION}]

    whole = client.chat(MODEL, messages, options=GREEDY)
    chunks = list(client.chat(MODEL, messages, options=GREEDY, stream=True))

    assert "".join(chunk.message.content or "" for chunk in chunks) == whole.message.content
    assert whole.message.role == "assistant"
    assert (whole.done_reason, chunks[-1].done_reason) == ("length", "length")
    assert whole.message.content == client.generate(MODEL, QUESTION, options=GREEDY).response


def test_a_system_message_replaces_the_templates_own(client: ollama.Client) -> None:
    plain = client.chat(MODEL, [{"role": "user", "content": QUESTION}], options=GREEDY)
    told = client.chat(
        MODEL,
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        options=GREEDY,
    )

    assert told.prompt_eval_count != plain.prompt_eval_count


def test_raw_prompts_go_in_as_they_are(client: ollama.Client) -> None:
    reply = client.generate(MODEL, "The capital of France is", raw=True, options=GREEDY)

    assert reply.prompt_eval_count == 5
    assert reply.response is not None and "Paris" in reply.response
    assert reply.context is None


def test_a_stop_string_ends_the_reply(client: ollama.Client) -> None:
    free = client.generate(MODEL, QUESTION, options=GREEDY).response or ""
    stop = free.split()[4]

    cut = client.generate(MODEL, QUESTION, options={**GREEDY, "stop": [stop]})

    assert cut.response == free[: free.index(stop)]
    assert cut.done_reason == "stop"


def test_the_same_seed_gives_the_same_text(client: ollama.Client) -> None:
    options = {"temperature": 1.2, "seed": 42, "num_predict": 16}

    texts = {client.generate(MODEL, QUESTION, options=options).response for _ in range(2)}
    other = client.generate(MODEL, QUESTION, options={**options, "seed": 43}).response

    assert len(texts) == 1
    assert other not in texts


def test_an_empty_prompt_loads_and_a_keep_alive_of_0_unloads(client: ollama.Client) -> None:
    loaded = client.generate(MODEL, keep_alive="10m")
    (running,) = [model for model in client.ps().models if model.model == MODEL]
    unloaded = client.generate(MODEL, keep_alive=0)

    assert (loaded.done_reason, loaded.response) == ("load", "")
    assert (running.model, running.size_vram) == (MODEL, 0)
    assert running.expires_at is not None and running.size
    assert unloaded.done_reason == "unload"
    assert MODEL not in [model.model for model in client.ps().models]


def test_copy_and_delete(client: ollama.Client) -> None:
    client.copy(MODEL, "elsewhere/copy:v1")
    names = [model.model for model in client.list().models]
    client.delete("elsewhere/copy:v1")

    assert "elsewhere/copy:v1" in names
    assert "elsewhere/copy:v1" not in [model.model for model in client.list().models]
    assert client.generate(MODEL, "hi", options={"num_predict": 1}).done


def test_create_over_a_model_keeps_what_it_does_not_change(client: ollama.Client) -> None:
    client.create(
        "pirate",
        from_=MODEL,
        system="You are a pirate.",
        parameters={"temperature": 0, "num_predict": 5},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Arr!"}],
    )

    shown = client.show("pirate")
    reply = client.chat("pirate", [{"role": "user", "content": "Who are you?"}])

    assert shown.modelfile is not None and "SYSTEM You are a pirate." in shown.modelfile
    assert shown.parameters is not None and "num_predict" in shown.parameters
    assert (reply.done_reason, reply.eval_count) == ("length", 5)
    client.delete("pirate")


@pytest.mark.parametrize("call", ["generate", "chat", "show", "delete", "copy"])
def test_a_model_that_is_not_there_is_404(client: ollama.Client, call: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "generate": lambda: client.generate("no-such-model", "hi"),
        "chat": lambda: client.chat("no-such-model", [{"role": "user", "content": "hi"}]),
        "show": lambda: client.show("no-such-model"),
        "delete": lambda: client.delete("no-such-model"),
        "copy": lambda: client.copy("no-such-model", "x"),
    }

    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        calls[call]()

    assert caught.value.status_code == 404


async def test_the_asynchronous_client_streams(client: ollama.Client, daemon: Daemon) -> None:
    asynchronous = ollama.AsyncClient(daemon.url)
    messages = [{"role": "user", "content": QUESTION}]

    stream = await asynchronous.chat(MODEL, messages, options=GREEDY, stream=True)
    text = "".join([chunk.message.content or "" async for chunk in stream])

    assert text == client.chat(MODEL, messages, options=GREEDY).message.content
    await asynchronous.close()  # type: ignore[no-untyped-call]
