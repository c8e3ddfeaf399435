"""What timed replies amount to: rates of a round, and the figures of several rounds.

Pure functions: no clock, no connection.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from olla.client.timing import TimedReply

# Common enough to be one token each, with the blank before, in the vocabularies in use.
_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
)


@dataclass(frozen=True, slots=True)
class Round:
    """Streams that were asked together. A rate of 0 is one that could not be measured.

    `prefill`: tokens of all prompts in a second, until the last stream began to reply. `decode`:
    tokens of all replies in a second while all streams were replying; where a server lets them
    wait for each other, from the first piece of any to the last.
    """

    ttft_s: float
    prefill: float
    decode: float
    num_prompt_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Figure:
    median: float
    low: float
    high: float


def prompt_of(num_words: int, seed: int) -> str:
    """Words that no other seed begins with, so that no server finds the prompt in its cache."""
    return " ".join(random.Random(seed).choices(_WORDS.split(), k=num_words))


def round_of(replies: Sequence[TimedReply]) -> Round:
    begun_s = min(reply.started_s for reply in replies)
    num_prompt_tokens = sum(reply.num_prompt_tokens for reply in replies)
    last_first_s = max(reply.first_s for reply in replies)
    return Round(
        ttft_s=statistics.median(reply.first_s - reply.started_s for reply in replies),
        prefill=num_prompt_tokens / (last_first_s - begun_s),
        decode=_decode_rate(replies),
        num_prompt_tokens=num_prompt_tokens // len(replies),
        num_tokens=min(reply.num_tokens for reply in replies),
    )


def figure_of(samples: Sequence[float]) -> Figure:
    return Figure(statistics.median(samples), min(samples), max(samples))


def format_figure(figure: Figure, decimals: int | None = None) -> str:
    """`34.1 (33.0 to 35.2)`; `-` for what could not be measured."""
    if not figure.median:
        return "-"
    places = _decimals(figure.median) if decimals is None else decimals
    return f"{figure.median:,.{places}f} ({figure.low:,.{places}f} to {figure.high:,.{places}f})"


def _decode_rate(replies: Sequence[TimedReply]) -> float:
    start_s = max(reply.first_s for reply in replies)
    end_s = min(reply.ended_s for reply in replies)
    if end_s <= start_s:
        start_s = min(reply.first_s for reply in replies)
        end_s = max(reply.ended_s for reply in replies)
    if end_s <= start_s:
        return 0.0
    return sum(_tokens_within(reply, start_s, end_s) for reply in replies) / (end_s - start_s)


def _tokens_within(reply: TimedReply, start_s: float, end_s: float) -> float:
    """A piece may hold several tokens: each counts as many as the average one."""
    pieces = sum(start_s < moment <= end_s for moment in reply.pieces_s)
    return reply.num_tokens * pieces / len(reply.pieces_s)


def _decimals(value: float) -> int:
    """Three significant digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
