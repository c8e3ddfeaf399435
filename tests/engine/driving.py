"""Asking an engine by hand: requests, the loop until all is answered, and what was answered."""

from __future__ import annotations

from typing import Any

import msgspec

from olla.engine.engine import Engine
from olla.options import SamplingParams
from olla.requests import TokenLogprob
from olla.runner.protocol import Failed, Finished, FromRunner, Generate, Grammar, Piece, Schema

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, seed=7)


def ask(number: int, prompt: str = "hello", **settings: Any) -> Generate:
    request = Generate(
        id=number, prompt=prompt, num_ctx=256, sampling=GREEDY, num_predict=12, want_context=True
    )
    return msgspec.structs.replace(request, **settings)


def schema(source: str) -> Grammar:
    return Grammar("start: schema_0", (Schema("the format", source),))


def lark(source: str, *tags: str) -> Grammar:
    return Grammar(source, tags=tags)


def add(engine: Engine, request: Generate) -> None:
    tokens = engine.encode(request.prompt, request.add_special_tokens)
    engine.add(request, request.context + tokens, engine.constrain(request.grammar))


def drain(engine: Engine) -> dict[int, list[FromRunner]]:
    """Step until nothing is left to do."""
    messages: dict[int, list[FromRunner]] = {}
    for _ in range(10_000):
        if not engine.has_work:
            return messages
        for message in engine.step():
            assert isinstance(message, Piece | Finished | Failed)
            messages.setdefault(message.id, []).append(message)
    raise AssertionError("the engine does not come to an end")


def answers(engine: Engine, request: Generate) -> list[FromRunner]:
    """All that comes for one request, alone."""
    add(engine, request)
    return drain(engine)[request.id]


def reply(engine: Engine, request: Generate) -> tuple[str, Finished]:
    messages = answers(engine, request)
    return text_of(messages), finished(messages)


def finished(messages: list[FromRunner]) -> Finished:
    last = messages[-1]
    assert isinstance(last, Finished)
    return last


def pieces(messages: list[FromRunner]) -> list[Piece]:
    return [message for message in messages if isinstance(message, Piece)]


def text_of(messages: list[FromRunner]) -> str:
    return "".join(piece.text for piece in pieces(messages))


def logprobs_of(messages: list[FromRunner]) -> list[TokenLogprob]:
    return [logprob for piece in pieces(messages) for logprob in piece.logprobs]
