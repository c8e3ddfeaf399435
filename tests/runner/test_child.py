"""The real runner process, spoken to over its pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from olla.options import SamplingParams
from olla.requests import TokenLogprob
from olla.runner.protocol import (
    Adapter,
    Cancel,
    Detokenize,
    Embed,
    Embeddings,
    Failed,
    FailureKind,
    Finished,
    FromRunner,
    Generate,
    Grammar,
    Load,
    Loaded,
    LoadProgress,
    Piece,
    Rerank,
    Schema,
    Scores,
    Stepped,
    Text,
    Tokenize,
    Tokens,
    ToRunner,
    decode_from_runner,
    encode,
    read_message,
)
from tests.encoders import save_encoder
from tests.tiny_model import save_tiny_model

GREEDY = SamplingParams(temperature=0.0)


class Child:
    """A runner of ours, started by hand. `stepped` is what came of that kind, beside the rest."""

    def __init__(self) -> None:
        self.stepped: list[Stepped] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "olla.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, *messages: ToRunner) -> None:
        assert self.process.stdin is not None
        for message in messages:
            self.process.stdin.write(encode(message))
        self.process.stdin.flush()

    def receive(self) -> FromRunner:
        assert self.process.stdout is not None
        while True:
            body = read_message(self.process.stdout)  # type: ignore[arg-type]
            assert body is not None, "the runner has ended"
            message = decode_from_runner(body)
            if not isinstance(message, Stepped):
                return message
            self.stepped.append(message)

    def receive_until(self, kind: type[Any]) -> Any:
        while not isinstance(message := self.receive(), kind):
            pass
        return message

    def close(self) -> str:
        """End it as the daemon does; what it wrote to its log."""
        _, errors = self.process.communicate(timeout=20)
        return errors.decode()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    if child.process.poll() is None:
        child.process.kill()
    child.process.communicate()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def loaded(child: Child, files: dict[str, str]) -> Child:
    child.send(Load(files=files, dtype="float32", device="cpu"))
    child.receive_until(Loaded)
    return child


def ask(number: int, prompt: str = "hello", num_predict: int = 8, **settings: Any) -> Generate:
    return Generate(
        id=number,
        prompt=prompt,
        num_ctx=512,
        sampling=GREEDY,
        num_predict=num_predict,
        shift=False,
        **settings,
    )


def schema(source: str) -> Grammar:
    return Grammar("start: schema_0", (Schema("the format", source),))


def test_loading_tells_what_was_loaded(child: Child, files: dict[str, str]) -> None:
    child.send(Load(files=files, dtype="bfloat16", device="cpu", num_threads=1))

    loaded = child.receive_until(Loaded)

    assert (loaded.architecture, loaded.context_length) == ("llama", 512)
    assert (loaded.device, loaded.dtype, loaded.bytes_on_device) == ("cpu", "bfloat16", 0)
    assert loaded.total_bytes > 0


def test_loading_reports_how_far_it_is(child: Child, files: dict[str, str]) -> None:
    child.send(Load(files=files, dtype="float32", device="cpu"))

    first = child.receive()

    assert isinstance(first, LoadProgress)
    assert 0 < first.completed_bytes <= first.total_bytes


def test_text_goes_to_tokens_and_back(loaded: Child) -> None:
    loaded.send(Tokenize(id=1, text="né <eos>"))
    tokens = loaded.receive_until(Tokens)
    loaded.send(Detokenize(id=2, tokens=tokens.tokens))

    assert tokens.id == 1
    assert loaded.receive_until(Text) == Text(id=2, text="né <eos>")


def test_requests_are_answered_side_by_side(loaded: Child) -> None:
    loaded.send(ask(1, num_predict=200), ask(2, "other", num_predict=3))

    first_to_end = loaded.receive_until(Finished)
    last_to_end = loaded.receive_until(Finished)

    assert (first_to_end.id, last_to_end.id) == (2, 1)
    assert (first_to_end.num_tokens, last_to_end.num_tokens) == (3, 200)


def test_nothing_comes_for_a_cancelled_request(loaded: Child) -> None:
    loaded.send(ask(1, num_predict=-1))
    loaded.receive_until(Piece)
    loaded.send(Cancel(id=1), ask(2, num_predict=3))

    after = []
    while not isinstance(message := loaded.receive(), Finished):
        after.append(message)
    # What was on its way when the cancel was written may still come, but then it is over.
    assert message.id == 2
    loaded.send(ask(3, num_predict=3))
    rest = [loaded.receive() for _ in range(2)]
    assert all(message.id == 3 for message in rest if isinstance(message, Piece | Finished))


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (ask(1, "x" * 600), FailureKind.PROMPT_TOO_LONG, "longer than the context"),
        (ask(1, ""), FailureKind.BAD_INPUT, "the prompt is empty"),
        (ask(1, context=[9999]), FailureKind.BAD_INPUT, "not in the vocabulary"),
        (ask(1, adapters=[Adapter({})]), FailureKind.BAD_INPUT, "no adapter_config"),
        (ask(1, grammar=schema('{"type": 1}')), FailureKind.BAD_INPUT, "the format cannot be used"),
        (ask(1, top_logprobs=21), FailureKind.BAD_INPUT, "between 0 and 20"),
        (ask(1, logit_bias={9999: 1.0}), FailureKind.BAD_INPUT, "token 9999"),
        (Detokenize(id=1, tokens=[-5]), FailureKind.BAD_INPUT, "not in the vocabulary"),
    ],
)
def test_a_request_that_cannot_be_answered_fails_alone(
    loaded: Child, request_: ToRunner, kind: FailureKind, words: str
) -> None:
    loaded.send(request_, ask(2))

    failed = loaded.receive_until(Failed)

    assert (failed.id, failed.kind) == (1, kind)
    assert words in failed.text
    assert loaded.receive_until(Finished).id == 2


def test_a_format_and_logprobs_come_through_the_pipes(loaded: Child) -> None:
    loaded.send(ask(1, grammar=schema('{"const": [1, 2]}'), num_predict=99, logprobs=True))

    text = ""
    logprobs: list[TokenLogprob] = []
    while isinstance(message := loaded.receive(), Piece):
        text, logprobs = text + message.text, logprobs + message.logprobs

    assert isinstance(message, Finished)
    assert (json.loads(text), message.reason) == ([1, 2], "stop")
    assert b"".join(logprob.raw for logprob in logprobs).decode() == text


def test_a_model_that_cannot_be_loaded_is_a_clear_failure(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "unheard-of"}')
    child.send(Load(files={"config.json": str(path)}))

    failed = child.receive_until(Failed)

    assert failed.id == 0
    assert "transformers cannot load this model" in failed.text
    assert "unheard-of" in failed.text
    assert child.process.wait(timeout=20) == 1


def test_the_window_is_no_larger_than_the_cache(child: Child, files: dict[str, str]) -> None:
    # Two layers of keys and values for two heads of eight float32 numbers.
    bytes_per_token = 2 * 2 * 2 * 8 * 4
    child.send(
        Load(files=files, dtype="float32", device="cpu", kv_cache_bytes=64 * bytes_per_token)
    )

    assert child.receive_until(Loaded).context_length == 64


def test_a_cache_that_holds_nothing_is_refused(child: Child, files: dict[str, str]) -> None:
    child.send(Load(files=files, device="cpu", kv_cache_bytes=100))

    assert child.receive_until(Failed).kind is FailureKind.OUT_OF_MEMORY


def test_a_device_that_is_not_there_is_named(child: Child, files: dict[str, str]) -> None:
    child.send(Load(files=files, device="cuda:99"))

    assert "OLLA_DEVICE=cuda:99" in child.receive_until(Failed).text


def test_the_end_of_stdin_ends_the_runner_in_mid_reply(loaded: Child) -> None:
    loaded.send(ask(1, num_predict=-1))
    loaded.receive_until(Piece)

    loaded.close()

    assert loaded.process.returncode == 0


def test_a_message_that_makes_no_sense_ends_the_runner_and_is_logged(loaded: Child) -> None:
    assert loaded.process.stdin is not None
    loaded.process.stdin.write((3).to_bytes(4, "little") + b"\xff\xff\xff")
    loaded.process.stdin.flush()

    assert "a message makes no sense" in loaded.close()


def test_a_model_embeds_while_it_writes(loaded: Child) -> None:
    loaded.send(ask(1, num_predict=300))
    loaded.receive_until(Piece)
    loaded.send(Embed(id=2, inputs=["x" * 400] * 4, num_ctx=512))

    order = [type(loaded.receive()) for _ in range(12)]

    assert Embeddings in order
    assert loaded.receive_until(Finished).num_tokens > 200


def test_an_encoder_embeds_and_ranks_and_writes_nothing(child: Child, tmp_path: Path) -> None:
    child.send(Load(files=save_encoder(tmp_path), device="cpu"))
    loaded = child.receive_until(Loaded)
    assert (loaded.architecture, loaded.context_length) == ("bert", 64)
    assert (loaded.dtype, loaded.total_bytes > 0) == ("float32", True)

    child.send(
        Tokenize(id=1, text="ab", add_special_tokens=True),
        Detokenize(id=2, tokens=[5]),
        ask(3),
        Embed(id=4, inputs=["ab"], num_ctx=64),
        Rerank(id=5, query="a", documents=["a", "b"], num_ctx=64),
    )

    assert child.receive_until(Tokens).tokens == [2, 5, 32, 3]
    assert child.receive_until(Text).text == "a"
    failed = child.receive_until(Failed)
    assert (failed.id, failed.kind) == (3, FailureKind.BAD_INPUT)
    assert "does not support generate" in failed.text
    vectors = child.receive_until(Embeddings)
    assert (vectors.id, vectors.num_tokens, len(vectors.vectors)) == (4, [4], 32 * 4)
    assert child.receive_until(Scores).scores[0] == pytest.approx(1.0)


def test_a_cancelled_embedding_sends_no_more(loaded: Child) -> None:
    loaded.send(Embed(id=1, inputs=["x" * 400] * 500, num_ctx=512))
    loaded.receive_until(Embeddings)
    loaded.send(Cancel(id=1), Tokenize(id=2, text="a"), Embed(id=3, inputs=["a"], num_ctx=9))

    last = [loaded.receive()]
    while getattr(last[-1], "id", 0) != 3:
        last.append(loaded.receive())

    assert len(last) < 400


def test_a_runner_tells_how_long_its_steps_took(loaded: Child) -> None:
    loaded.send(ask(1, num_predict=8))
    loaded.receive_until(Finished)
    loaded.send(Tokenize(2, "x"))
    loaded.receive_until(Tokens)
    seconds = [one for stepped in loaded.stepped for one in stepped.seconds]

    assert len(seconds) >= 8
    assert all(0 < one < 60 for one in seconds)
    last = loaded.stepped[-1]
    assert 0 <= last.num_used_tokens <= last.num_cache_tokens
    assert last.num_cache_tokens > 0
