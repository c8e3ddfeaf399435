"""Streams of both dialects, with the time of each piece."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from olla.address import Address
from olla.client import Client
from olla.client.timing import (
    Api,
    Event,
    Question,
    ask,
    ollama_event,
    openai_event,
    read_reply,
    together,
)
from olla.errors import ApiError, ClientError
from tests.cli.fake_daemon import Reply, failed, generated, running_daemon

OLLAMA = (
    b'{"response": "Hello", "done": false}\n',
    b'{"response": " there", "done": false}\n',
    b'{"response": "", "done": true, "prompt_eval_count": 7, "eval_count": 3}\n',
)
OPENAI = (
    b'data: {"choices": [{"text": ""}]}\n',
    b"\n",
    b": ping\n",
    b'data: {"choices": [{"text": "Hello"}]}\r\n',
    b'data:{"choices": [{"text": " there"}]}\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n',
    b"data: [DONE]\n",
)


def timed(lines: tuple[bytes, ...]) -> list[tuple[float, bytes]]:
    return [(100.0 + number, line) for number, line in enumerate(lines)]


def question(*, ignore_eos: bool = True) -> Question:
    return Question("m", "p", num_tokens=3, num_ctx=64, ignore_eos=ignore_eos)


@pytest.mark.parametrize(
    ("api", "lines", "pieces_s"),
    [(Api.OLLAMA, OLLAMA, (100.0, 101.0)), (Api.OPENAI, OPENAI, (103.0, 104.0))],
)
def test_a_piece_has_the_time_of_its_line(
    api: Api, lines: tuple[bytes, ...], pieces_s: tuple[float, ...]
) -> None:
    reply = read_reply(api, 99.0, timed(lines))

    assert reply.pieces_s == pieces_s
    assert (reply.started_s, reply.first_s, reply.ended_s) == (99.0, pieces_s[0], pieces_s[-1])
    assert (reply.num_prompt_tokens, reply.num_tokens) == (7, 3)


def test_usage_on_the_chunk_that_ends_the_reply_counts_as_well() -> None:
    line = b'data: {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"prompt_tokens"'
    event = openai_event(line + b": 7, " + b'"completion_tokens": 3}}')

    assert event == Event(num_prompt_tokens=7, num_tokens=3)


def test_thinking_is_text_too() -> None:
    assert ollama_event(b'{"response": "", "thinking": "Hm"}').has_text


@pytest.mark.parametrize(
    ("api", "line"),
    [
        (Api.OLLAMA, b'{"error": "out of memory"}\n'),
        (Api.OPENAI, b'data: {"error": {"message": "out of memory", "code": 500}}\n'),
        (Api.OPENAI, b'error: {"error": "out of memory"}\n'),
    ],
)
def test_an_error_in_the_stream_is_raised(api: Api, line: bytes) -> None:
    lines = OLLAMA[:1] if api is Api.OLLAMA else OPENAI[:4]

    with pytest.raises(ApiError, match=r"^out of memory$"):
        read_reply(api, 0.0, timed((*lines, line)))


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((), "no text"),
        (OLLAMA[2:], "no text"),
        (OLLAMA[:2], "how many tokens"),
        ((b"<html>\n",), "not JSON"),
        ((b"[1]\n",), "not a JSON object"),
    ],
)
def test_a_reply_that_cannot_be_timed_says_why(lines: tuple[bytes, ...], text: str) -> None:
    with pytest.raises(ClientError, match=text):
        read_reply(Api.OLLAMA, 0.0, timed(lines))


def test_ollama_is_asked_for_the_raw_prompt_at_temperature_0() -> None:
    with running_daemon() as daemon:
        daemon.script("POST /api/generate", generated("a", "b", eval_count=2))
        client = Client(Address.parse(daemon.address))

        reply = ask(client, Api.OLLAMA, question(), threading.Event())

        assert reply.num_tokens == 2
        (request,) = daemon.sent("POST /api/generate")
        options = {"temperature": 0, "num_predict": 3, "num_ctx": 64}
        assert request.json == {"model": "m", "prompt": "p", "raw": True, "options": options}


@pytest.mark.parametrize("ignore_eos", [True, False])
def test_an_openai_like_server_is_asked_for_a_completion_with_usage(ignore_eos: bool) -> None:
    with running_daemon() as daemon:
        daemon.script("POST /v1/completions", Reply(raw=b"".join(OPENAI)))
        client = Client(Address.parse(daemon.address))

        reply = ask(client, Api.OPENAI, question(ignore_eos=ignore_eos), threading.Event())

        assert (reply.num_prompt_tokens, reply.num_tokens) == (7, 3)
        (request,) = daemon.sent("POST /v1/completions")
        assert request.json["stream_options"] == {"include_usage": True}
        assert request.json.get("ignore_eos", False) is ignore_eos


@pytest.mark.parametrize("error", ['"no such model"', '{"message": "no such model", "code": 404}'])
def test_a_refusal_says_what_the_server_said(error: str) -> None:
    with running_daemon() as daemon:
        daemon.script(
            "POST /v1/completions", Reply(raw=b'{"error": %s}' % error.encode(), status=404)
        )
        client = Client(Address.parse(daemon.address))

        with pytest.raises(ApiError, match=r"no such model$"):
            ask(client, Api.OPENAI, question(), threading.Event())


def test_calls_run_together() -> None:
    barrier = threading.Barrier(4, timeout=10)

    results = together([lambda stop: barrier.wait() >= 0] * 4)

    assert results == [True] * 4


def test_results_stand_in_the_order_of_the_calls() -> None:
    def call(number: int, stop: threading.Event) -> int:
        time.sleep(0.01 * (3 - number))
        return number

    calls = [partial(call, number) for number in range(3)]

    assert together(calls) == [0, 1, 2]


def test_an_error_of_one_stream_ends_the_others() -> None:
    def waits(stop: threading.Event) -> None:
        assert stop.wait(10)

    def fails(stop: threading.Event) -> None:
        raise ClientError("refused")

    with pytest.raises(ClientError, match="refused"):
        together([waits, fails, waits])


def test_a_stream_that_is_stopped_closes_its_connection() -> None:
    stop = threading.Event()
    words = ["word"] * 1000
    with running_daemon() as daemon:
        endless = Reply(
            generated(*words).lines,
            before_line=lambda index: time.sleep(0.01 if index else 0.0),
        )
        daemon.script("POST /api/generate", endless)
        client = Client(Address.parse(daemon.address))
        stop.set()

        with pytest.raises(ClientError):
            ask(client, Api.OLLAMA, question(), stop)

        assert daemon.client_left.wait(10)


def test_a_stream_that_fails_before_it_begins_is_an_error() -> None:
    with running_daemon() as daemon:
        daemon.script("POST /api/generate", failed(500, "no room"))
        client = Client(Address.parse(daemon.address))

        with pytest.raises(ApiError, match="no room") as caught:
            ask(client, Api.OLLAMA, question(), threading.Event())

    assert caught.value.status == 500
