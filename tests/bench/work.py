"""What peers are asked, and how: the same prompts, in turn, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from olla.cli.figures import Round, prompt_of, round_of
from olla.client.timing import TimedReply
from tests.bench.peers import Peer, cpu_seconds

HISTORY_WORDS = 2000
_TURN_WORDS = 16
_WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Work:
    key: str
    title: str
    streams: int
    num_words: int
    num_tokens: int
    metric: Callable[[Round], float]


WORKS = (
    Work("prefill", "prefill of 512 tokens", 1, 512, 1, lambda round_: round_.prefill),
    Work("decode", "decode, 1 stream", 1, 16, 64, lambda round_: round_.decode),
    Work("decode8", "decode, 8 streams", 8, 16, 64, lambda round_: round_.decode),
)

Samples = dict[str, tuple[float, ...]]
"""The samples of each peer, by its name; sample n of all is from round n."""


class Referee:
    """Asks every peer in turn, checks that they were asked the same, and watches the idle ones."""

    def __init__(self, peers: Sequence[Peer], num_rounds: int) -> None:
        self._peers = peers
        self._num_rounds = num_rounds
        self.notes: set[str] = set()
        self.busy: dict[str, float] = {}

    def measure(self, work: Work, model: str) -> Samples:
        self._round(work, model, 0, _WARM_UP_TOKENS)
        rounds = [
            self._round(work, model, number, work.num_tokens)
            for number in range(1, self._num_rounds + 1)
        ]
        return {
            peer.name: tuple(work.metric(found[peer.name]) for found in rounds)
            for peer in self._peers
        }

    def second_turns(self, model: str) -> Samples:
        """Time to the first token of a chat's second turn, in parts of that of its first."""
        rounds = [dict(self._turns(model, number)) for number in range(self._num_rounds)]
        return {peer.name: tuple(found[peer.name] for found in rounds) for peer in self._peers}

    def _round(self, work: Work, model: str, number: int, num_tokens: int) -> dict[str, Round]:
        prompts = [
            prompt_of(work.num_words, _seed(work.key, model, number, stream))
            for stream in range(work.streams)
        ]
        num_tokens = min(num_tokens, work.num_tokens)
        found = {
            peer.name: round_of(self._ask(peer, prompts, num_tokens)) for peer in self._turn(number)
        }
        self._compare(found, num_tokens)
        return found

    def _turns(self, model: str, number: int) -> Iterator[tuple[str, float]]:
        history = prompt_of(HISTORY_WORDS, _seed("chat", model, number, 0))
        question = f"{history} {prompt_of(_TURN_WORDS, number)}"
        for peer in self._turn(number):
            first, second = (self._ask(peer, [text], 2)[0] for text in (history, question))
            yield peer.name, (second.first_s - second.started_s) / (first.first_s - first.started_s)

    def _turn(self, number: int) -> Sequence[Peer]:
        """Nobody is always first."""
        start = number % len(self._peers)
        return [*self._peers[start:], *self._peers[:start]]

    def _ask(self, peer: Peer, prompts: Sequence[str], num_tokens: int) -> list[TimedReply]:
        others = [other for other in self._peers if other is not peer]
        before = [cpu_seconds(other.process) for other in others]
        start_s = time.monotonic()
        replies = peer.ask(prompts, num_tokens)
        took_s = time.monotonic() - start_s
        for other, spent_s in zip(others, before, strict=True):
            share = (cpu_seconds(other.process) - spent_s) / max(took_s, 1.0)
            self.busy[other.name] = max(self.busy.get(other.name, 0.0), share)
        return replies

    def _compare(self, found: dict[str, Round], num_tokens: int) -> None:
        counts = {name: round_.num_prompt_tokens for name, round_ in found.items()}
        if max(counts.values()) - min(counts.values()) > 1:
            raise RuntimeError(f"the same prompts have different numbers of tokens: {counts}")
        for name, round_ in found.items():
            if round_.num_tokens < num_tokens:
                self.notes.add(f"{name} ended replies before {num_tokens} tokens")


def _seed(*parts: object) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(repr(parts).encode(), "little")
