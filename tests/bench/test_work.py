"""Peers are asked the same, in turn, and watched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import pytest

from olla.client.timing import TimedReply
from tests.bench.work import WORKS, Referee


@dataclass
class ScriptedPeer:
    """Each reply takes `pace_s` a token, after a prompt of `num_prompt_tokens`."""

    name: str
    log: list[tuple[str, tuple[str, ...], int]]
    pace_s: float = 1.0
    num_prompt_tokens: int = 16
    num_tokens: int = 0
    process: psutil.Process = field(default_factory=lambda: psutil.Process(os.getpid()))
    clock_s: float = 0.0

    def ask(self, prompts: Sequence[str], num_tokens: int) -> list[TimedReply]:
        self.log.append((self.name, tuple(prompts), num_tokens))
        count = self.num_tokens or num_tokens
        pieces = tuple(self.pace_s * (number + 1) for number in range(count))
        return [TimedReply(0.0, pieces, self.num_prompt_tokens, count) for _ in prompts]


DECODE8 = next(work for work in WORKS if work.key == "decode8")


def test_every_peer_gets_the_same_prompts_and_nobody_is_always_first() -> None:
    log: list[tuple[str, tuple[str, ...], int]] = []
    referee = Referee([ScriptedPeer("a", log), ScriptedPeer("b", log, pace_s=2.0)], 2)

    samples = referee.measure(DECODE8, "m")

    assert samples == {"a": (8.0, 8.0), "b": (4.0, 4.0)}
    assert [name for name, _, _ in log] == ["a", "b", "b", "a", "a", "b"]
    assert [num_tokens for _, _, num_tokens in log] == [4, 4, 64, 64, 64, 64]
    assert all(log[number][1] == log[number + 1][1] for number in (0, 2, 4))
    prompts = [prompt for number in (0, 2, 4) for prompt in log[number][1]]
    assert len(set(prompts)) == 3 * 8


def test_prompts_that_count_differently_stop_the_run() -> None:
    referee = Referee([ScriptedPeer("a", []), ScriptedPeer("b", [], num_prompt_tokens=30)], 1)

    with pytest.raises(RuntimeError, match="different numbers of tokens"):
        referee.measure(DECODE8, "m")


def test_replies_that_end_early_are_noted() -> None:
    referee = Referee([ScriptedPeer("a", []), ScriptedPeer("b", [], num_tokens=10)], 1)

    referee.measure(DECODE8, "m")

    assert referee.notes == {"b ended replies before 64 tokens"}


def test_the_second_turn_begins_with_the_first() -> None:
    log: list[tuple[str, tuple[str, ...], int]] = []
    referee = Referee([ScriptedPeer("a", log)], 1)

    assert referee.second_turns("m") == {"a": (1.0,)}

    (_, (first,), _), (_, (second,), _) = log
    assert second.startswith(f"{first} ")
    assert len(first.split()) == 2000
