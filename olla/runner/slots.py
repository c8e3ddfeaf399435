"""What the pool keeps of its runners, and what it tells of them.

A slot is one runner, from the moment it is wanted; a session is one name's use of it, with a
keep-alive of its own. A lease is one request's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from olla.caller import Caller
from olla.names import ModelName
from olla.runner.process import Runner
from olla.runner.protocol import Files, LoadProgress
from olla.runner.turns import Turns

_LONGEST_S = 1e9  # about 30 years: what is kept longer is kept forever
_NOT_BEGUN = LoadProgress(0, 0)


@dataclass(frozen=True, slots=True)
class RunnableModel:
    """What the pool needs of a model. `context_length` is the window its request asks for.

    `quantize` is "" for what the settings say; `draft_files`, `num_gpu` and `main_gpu` are those of
    Load, as is `num_threads`, 0 for what the settings say.
    `needed_bytes` is an estimate of its memory, 0 if there is none.
    """

    name: ModelName
    weights_key: str
    files: Files
    context_length: int
    draft_files: Files = field(default_factory=dict)
    quantize: str = ""
    num_gpu: int = -1
    main_gpu: int = 0
    num_threads: int = 0
    needed_bytes: int = 0

    @property
    def runner_key(self) -> str:
        """Equal for models that may share a runner: the same weights, loaded alike."""
        draft = " ".join(self.draft_files.values())
        placed = f"{self.num_gpu} {self.main_gpu} {self.num_threads}"
        return f"{self.weights_key} {draft} {self.quantize} {placed}"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A line of `ps`. `expires_at` is None for never."""

    name: ModelName
    expires_at: datetime | None
    size_bytes: int
    vram_bytes: int
    context_length: int


@dataclass(frozen=True, slots=True)
class LoadingModel:
    """A model on its way into memory; `total_bytes` is 0 until its load has begun to read."""

    name: ModelName
    completed_bytes: int
    total_bytes: int


class WaitState(StrEnum):
    LOADING = "loading"
    QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits: for its model, which is being loaded, or for its place to come up.

    `position` counts from 1 in the queue of loads or of the model's turns, 0 while loading.
    """

    caller: Caller
    name: ModelName
    state: WaitState
    position: int = 0


class Lease:
    """The right to use a runner until `release`, which may be called more than once."""

    def __init__(
        self, runner: Runner, turns: Turns, load_ns: int, release: Callable[[], None]
    ) -> None:
        self.runner = runner
        self.load_ns = load_ns
        self._turns = turns
        self._release = release
        self._is_released = False

    def turn(self) -> AbstractAsyncContextManager[None]:
        """What computes on the runner does so within a turn, for which it may have to wait."""
        return self._turns.take()

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._release()


@dataclass(slots=True, eq=False)
class Session:
    """One name's use of a runner. `idle_since` is on the loop's clock, which is monotonic."""

    name: ModelName
    keep_alive_s: float
    context_length: int = 0
    num_leases: int = 0
    idle_since: float = 0.0
    timer: asyncio.TimerHandle | None = None

    @property
    def is_forever(self) -> bool:
        return self.keep_alive_s > _LONGEST_S

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def expires_at(self) -> datetime | None:
        """When it ends: by its timer, or if its requests ended now."""
        if self.is_forever:
            return None
        seconds = self.keep_alive_s
        if self.num_leases == 0:
            seconds -= asyncio.get_running_loop().time() - self.idle_since
        return datetime.now(UTC) + timedelta(seconds=seconds)


@dataclass(slots=True, eq=False)
class Slot:
    """One runner; `runner` is None until it is loaded, `waiting` are those who wait for that."""

    model: RunnableModel
    turns: Turns
    sessions: dict[ModelName, Session] = field(default_factory=dict)
    runner: Runner | None = None
    task: asyncio.Task[Runner] | None = None
    has_begun: bool = False
    progress: LoadProgress = _NOT_BEGUN
    waiting: list[tuple[Caller, ModelName]] = field(default_factory=list)
    last_used: float = 0.0

    @property
    def num_leases(self) -> int:
        return sum(session.num_leases for session in self.sessions.values())

    @property
    def keep_alive_s(self) -> float:
        return max(session.keep_alive_s for session in self.sessions.values())

    def loaded_models(self) -> list[LoadedModel]:
        if self.runner is None:
            return []
        loaded = self.runner.loaded
        return [
            LoadedModel(
                name=session.name,
                expires_at=session.expires_at(),
                size_bytes=loaded.total_bytes,
                vram_bytes=loaded.bytes_on_device,
                context_length=min(session.context_length, loaded.context_length),
            )
            for session in self.sessions.values()
        ]

    def queue(self, position: int) -> list[Waiting]:
        """Who waits here; `position` is the slot's own among the loads that have not begun."""
        if self.runner is not None:
            name = self.model.name
            callers = enumerate(self.turns.waiting(), 1)
            return [Waiting(caller, name, WaitState.QUEUED, place) for place, caller in callers]
        if self.has_begun:
            return [Waiting(caller, name, WaitState.LOADING) for caller, name in self.waiting]
        return [Waiting(caller, name, WaitState.QUEUED, position) for caller, name in self.waiting]
