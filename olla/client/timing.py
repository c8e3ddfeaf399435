"""Streamed replies with the time of each piece, in Ollama's dialect or in OpenAI's.

A stream is only written down while it runs, so that reading it takes no time from the server on the
same machine; what it says is worked out afterwards, by pure functions.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from olla.client import Client
from olla.client.arrivals import lines_of
from olla.client.replies import Json
from olla.errors import ApiError, ClientError

Lines = Sequence[tuple[float, bytes]]
"""Each line of a stream, and when it came."""

_T = TypeVar("_T")


class Api(StrEnum):
    OLLAMA = "ollama"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Question:
    """What one stream asks. `ignore_eos`: ask OpenAI-like servers to go on past the end."""

    model: str
    prompt: str
    num_tokens: int
    num_ctx: int
    ignore_eos: bool = True


@dataclass(frozen=True, slots=True)
class TimedReply:
    """`pieces_s`: when each piece of text came, on the clock of `started_s`; never empty."""

    started_s: float
    pieces_s: tuple[float, ...]
    num_prompt_tokens: int
    num_tokens: int

    @property
    def first_s(self) -> float:
        return self.pieces_s[0]

    @property
    def ended_s(self) -> float:
        return self.pieces_s[-1]


@dataclass(frozen=True, slots=True)
class Event:
    """What one line of a stream says. Counts of 0 are not said."""

    has_text: bool = False
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    error: str = ""


def ask(client: Client, api: Api, question: Question, stop: threading.Event) -> TimedReply:
    """One reply to its end, or until `stop` is set.

    Raises:
        ClientError: the server refused, broke off, or sent no text.
    """
    path, body = _request(api, question)
    started_s = time.perf_counter()
    arrivals: list[tuple[float, bytes]] = []
    with client.stream(path, body, closes=True) as response:
        while data := response.fp.read1():
            arrivals.append((time.perf_counter(), data))
            if stop.is_set():
                break
        is_chunked = response.chunked
    return read_reply(api, started_s, lines_of(arrivals, is_chunked=is_chunked))


def read_reply(api: Api, started_s: float, lines: Lines) -> TimedReply:
    """What a stream was. Tokens are as the server counts them.

    Raises:
        ClientError: it holds an error, no text, or no count of tokens.
    """
    read = ollama_event if api is Api.OLLAMA else openai_event
    events = [(moment, read(line)) for moment, line in lines]
    errors = [event.error for _, event in events if event.error]
    if errors:
        raise ApiError(errors[0], 200)
    pieces_s = tuple(moment for moment, event in events if event.has_text)
    if not pieces_s:
        raise ClientError("the server's reply holds no text: nothing can be timed")
    num_tokens = max(event.num_tokens for _, event in events)
    if not num_tokens:
        raise ClientError("the server did not say how many tokens its reply has")
    return TimedReply(
        started_s=started_s,
        pieces_s=pieces_s,
        num_prompt_tokens=max(event.num_prompt_tokens for _, event in events),
        num_tokens=num_tokens,
    )


def ollama_event(line: bytes) -> Event:
    """A line of /api/generate."""
    reply = _object(line)
    return Event(
        has_text=bool(reply.get("response") or reply.get("thinking")),
        num_prompt_tokens=reply.get("prompt_eval_count") or 0,
        num_tokens=reply.get("eval_count") or 0,
        error=_error(reply),
    )


def openai_event(line: bytes) -> Event:
    """A line of /v1/completions: server-sent events, of which only `data:` matters."""
    name, _, data = line.strip().partition(b":")
    if name not in {b"data", b"error"} or data.strip() == b"[DONE]":
        return Event()
    reply = _object(data)
    usage = reply.get("usage") or {}
    return Event(
        has_text=any(choice.get("text") for choice in reply.get("choices") or ()),
        num_prompt_tokens=usage.get("prompt_tokens") or 0,
        num_tokens=usage.get("completion_tokens") or 0,
        error=_error(reply),
    )


def together(calls: Sequence[Callable[[threading.Event], _T]]) -> list[_T]:
    """What each call gives, all begun at once, each in a thread of its own.

    The first error ends the others and is raised; Ctrl-C ends them too.
    """
    stop = threading.Event()
    results: dict[int, _T] = {}
    errors: list[ClientError] = []

    def work(number: int) -> None:
        try:
            results[number] = calls[number](stop)
        except ClientError as error:
            if not stop.is_set():
                errors.append(error)
            stop.set()

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(calls))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(calls))]


def _request(api: Api, question: Question) -> tuple[str, Json]:
    if api is Api.OLLAMA:
        options = {
            "temperature": 0,
            "num_predict": question.num_tokens,
            "num_ctx": question.num_ctx,
        }
        body = {"model": question.model, "prompt": question.prompt, "raw": True}
        return "/api/generate", {**body, "options": options}
    return "/v1/completions", {
        "model": question.model,
        "prompt": question.prompt,
        "max_tokens": question.num_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"ignore_eos": True} if question.ignore_eos else {}),
    }


def _object(data: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise ClientError("the server sent a reply that is not JSON") from error
    if not isinstance(reply, dict):
        raise ClientError("the server sent a reply that is not a JSON object")
    return reply


def _error(reply: Json) -> str:
    """OpenAI's errors are objects with a message, Ollama's are texts."""
    error = reply.get("error") or ""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
