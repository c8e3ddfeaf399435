"""RunnerPool: the loaded runners: load, share, keep alive, evict, list.

Owns which runners live and for how long; knows nothing about prompts. Names whose models have
the same weights share one runner; each name has a session with a keep-alive of its own, which
counts from the end of its last request. A runner lives as long as it has sessions. One model
loads at a time, and a load that has begun goes on when its client leaves. A request for a loaded
model never waits here. The rules are those of spec/scheduler.md; of models that are kept equally
long, the least recently used one makes room.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from olla.errors import RunnerDied, ServerBusy
from olla.names import ModelName
from olla.runner.process import Runner, RunnerProcess
from olla.runner.protocol import Files, Load, LoadProgress
from olla.settings import Settings

_LONGEST_S = 1e9  # about 30 years: what is kept longer is kept forever

_NOT_BEGUN = LoadProgress(0, 0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnableModel:
    """What the pool needs of a model. `context_length` is the window its request asks for.

    `quantize` is "" for what the settings say; `num_gpu` and `main_gpu` are those of Load.
    """

    name: ModelName
    weights_key: str
    files: Files
    context_length: int
    quantize: str = ""
    num_gpu: int = -1
    main_gpu: int = 0

    @property
    def runner_key(self) -> str:
        """Equal for models that may share a runner: the same weights, loaded alike."""
        return f"{self.weights_key} {self.quantize} {self.num_gpu} {self.main_gpu}"


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


class Spawn(Protocol):
    def __call__(
        self, load: Load, *, load_timeout_s: float, on_progress: Callable[[LoadProgress], None]
    ) -> Awaitable[Runner]: ...


class Lease:
    """The right to use a runner until `release`, which may be called more than once."""

    def __init__(self, runner: Runner, load_ns: int, release: Callable[[], None]) -> None:
        self.runner = runner
        self.load_ns = load_ns
        self._release = release
        self._is_released = False

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._release()


@dataclass(slots=True, eq=False)
class _Session:
    """One name's use of a runner. `idle_since` is on the loop's clock."""

    name: ModelName
    keep_alive_s: float
    context_length: int = 0
    num_leases: int = 0
    idle_since: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True, eq=False)
class _Slot:
    """One runner, from the moment it is wanted. `runner` is None while it loads."""

    model: RunnableModel
    sessions: dict[ModelName, _Session] = field(default_factory=dict)
    runner: Runner | None = None
    loading: asyncio.Task[Runner] | None = None
    progress: LoadProgress = _NOT_BEGUN
    last_used: float = 0.0

    @property
    def num_leases(self) -> int:
        return sum(session.num_leases for session in self.sessions.values())

    @property
    def keep_alive_s(self) -> float:
        return max(session.keep_alive_s for session in self.sessions.values())


class RunnerPool:
    def __init__(self, settings: Settings, spawn: Spawn = RunnerProcess.start) -> None:
        self._settings = settings
        self._spawn = spawn
        self._slots: dict[str, _Slot] = {}
        self._load_lock = asyncio.Lock()
        self._num_waiting = 0
        self._has_changed = asyncio.Event()
        self._closings: set[asyncio.Task[None]] = set()

    async def acquire(self, model: RunnableModel, keep_alive_s: float | None = None) -> Lease:
        """Get the runner of a model, loading it if need be.

        Args:
            keep_alive_s: how long to keep it after this; None leaves what was, or the default.

        Raises:
            ServerBusy: too many requests wait for a load already.
            OllaError: the model cannot be loaded.
        """
        started = time.monotonic_ns()
        self._forget_elsewhere(model)
        slot = self._slot(model)
        session = self._session(slot, model, keep_alive_s)
        session.num_leases += 1
        try:
            runner = slot.runner or await self._loaded(slot)
        except BaseException:
            self._release(slot, session)
            raise
        load_ns = time.monotonic_ns() - started
        return Lease(runner, load_ns, lambda: self._release(slot, session))

    def unload(self, name: ModelName) -> None:
        """Let a model go as soon as no request uses it; nothing happens if it is not loaded."""
        for slot in tuple(self._slots.values()):
            session = slot.sessions.get(name)
            if session is not None:
                session.keep_alive_s = 0.0
                self._settle(slot, session)

    def list(self) -> tuple[LoadedModel, ...]:
        """What is loaded; the one that expires last comes first."""
        self._drop_dead()
        models = [
            self._describe(session, slot.runner)
            for slot in self._slots.values()
            if slot.runner is not None
            for session in slot.sessions.values()
        ]
        return tuple(sorted(models, key=_expiry, reverse=True))

    def loading(self) -> tuple[LoadingModel, ...]:
        """What waits to be loaded, and how far it is."""
        return tuple(
            LoadingModel(name, slot.progress.completed_bytes, slot.progress.total_bytes)
            for slot in self._slots.values()
            if slot.runner is None
            for name in slot.sessions
        )

    async def close(self) -> None:
        """End every runner, loaded or loading."""
        slots = tuple(self._slots.values())
        loads = [slot.loading for slot in slots if slot.loading is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for slot in slots:
            self._drop(slot)
        while self._closings:
            await asyncio.wait(self._closings)

    def _slot(self, model: RunnableModel) -> _Slot:
        """The slot of a model's weights; a new one begins to load.

        Raises:
            ServerBusy: it is not loaded, and the queue is full.
        """
        self._drop_dead()
        slot = self._slots.get(model.runner_key)
        # One load is under way; the queue holds those behind it.
        if (slot is None or slot.runner is None) and self._num_waiting > self._settings.max_queue:
            raise ServerBusy
        if slot is None:
            slot = self._slots[model.runner_key] = _Slot(model)
            slot.loading = asyncio.create_task(self._load(slot), name="load")
            slot.loading.add_done_callback(_notice_result)
        return slot

    def _session(self, slot: _Slot, model: RunnableModel, keep_alive_s: float | None) -> _Session:
        session = slot.sessions.get(model.name)
        if session is None:
            session = _Session(model.name, self._settings.keep_alive_s)
            slot.sessions[model.name] = session
        session.stop_timer()
        session.context_length = model.context_length
        if keep_alive_s is not None:
            session.keep_alive_s = keep_alive_s
        return session

    async def _loaded(self, slot: _Slot) -> Runner:
        """Wait for the load, which goes on if this waiting is cancelled."""
        assert slot.loading is not None
        self._num_waiting += 1
        try:
            await asyncio.wait({slot.loading})
        finally:
            self._num_waiting -= 1
        if slot.loading.cancelled():  # the pool was closed, or nobody had waited any more
            raise RunnerDied
        return slot.loading.result()

    async def _load(self, slot: _Slot) -> Runner:
        try:
            async with self._load_lock:
                if slot.num_leases == 0:
                    raise asyncio.CancelledError  # its clients have gone before it began
                await self._make_room()
                slot.runner = await self._start(slot)
        finally:
            if slot.runner is None:
                self._slots.pop(slot.model.runner_key, None)
        for session in tuple(slot.sessions.values()):
            session.idle_since = asyncio.get_running_loop().time()
            self._settle(slot, session)
        return slot.runner

    async def _start(self, slot: _Slot) -> Runner:
        model, settings = slot.model, self._settings

        def on_progress(progress: LoadProgress) -> None:
            slot.progress = progress

        load = Load(
            files=model.files,
            dtype=settings.dtype,
            device=settings.device,
            num_threads=settings.num_threads,
            kv_cache_bytes=settings.kv_cache_bytes,
            quantize=model.quantize or settings.quantize,
            num_gpu=model.num_gpu,
            main_gpu=model.main_gpu,
            num_ctx=model.context_length,
            profile=settings.profile,
        )
        _log.info("loading model=%s", model.name)
        return await self._spawn(
            load, load_timeout_s=settings.load_timeout_s, on_progress=on_progress
        )

    async def _make_room(self) -> None:
        """Wait until one more runner may be loaded and the memory of those let go is free."""
        while True:
            self._drop_dead()
            loaded = [slot for slot in self._slots.values() if slot.runner is not None]
            if len(loaded) < self._settings.max_loaded_models:
                break
            idle = [slot for slot in loaded if slot.num_leases == 0]
            if idle:
                self._drop(min(idle, key=lambda slot: (slot.keep_alive_s, slot.last_used)))
            else:
                self._has_changed.clear()
                await self._has_changed.wait()
        if self._closings:
            await asyncio.wait(self._closings)

    def _release(self, slot: _Slot, session: _Session) -> None:
        session.num_leases -= 1
        slot.last_used = session.idle_since = asyncio.get_running_loop().time()
        self._settle(slot, session)
        self._has_changed.set()

    def _settle(self, slot: _Slot, session: _Session) -> None:
        """Start the keep-alive of a session that is idle, or end it if that is over."""
        if session.num_leases > 0 or slot.runner is None:
            return
        session.stop_timer()
        loop = asyncio.get_running_loop()
        if not slot.runner.alive:
            self._drop(slot)
        elif session.keep_alive_s <= 0:
            self._expire(slot, session)
        elif session.keep_alive_s <= _LONGEST_S:
            when = session.idle_since + session.keep_alive_s
            session.timer = loop.call_at(when, self._expire, slot, session)

    def _expire(self, slot: _Slot, session: _Session) -> None:
        session.stop_timer()
        slot.sessions.pop(session.name, None)
        if not slot.sessions:
            self._drop(slot)

    def _forget_elsewhere(self, model: RunnableModel) -> None:
        """A name that was made anew, or is to be loaded otherwise, leaves its old runner."""
        for key, slot in tuple(self._slots.items()):
            session = slot.sessions.get(model.name)
            if session is not None and key != model.runner_key:
                session.keep_alive_s = 0.0
                self._settle(slot, session)

    def _drop_dead(self) -> None:
        for slot in tuple(self._slots.values()):
            if slot.runner is not None and not slot.runner.alive:
                self._drop(slot)

    def _drop(self, slot: _Slot) -> None:
        """Take a slot out of the pool and end its runner."""
        if self._slots.get(slot.model.runner_key) is not slot:
            return
        del self._slots[slot.model.runner_key]
        for session in slot.sessions.values():
            session.stop_timer()
        self._has_changed.set()
        if slot.runner is not None:
            _log.info("unloading model=%s", slot.model.name)
            task = asyncio.create_task(slot.runner.close(), name="close")
            self._closings.add(task)
            task.add_done_callback(self._closings.discard)

    def _describe(self, session: _Session, runner: Runner) -> LoadedModel:
        return LoadedModel(
            name=session.name,
            expires_at=_expires_at(session),
            size_bytes=runner.loaded.total_bytes,
            vram_bytes=runner.loaded.bytes_on_device,
            context_length=min(session.context_length, runner.loaded.context_length),
        )


def _expires_at(session: _Session) -> datetime | None:
    """When a session ends: by its timer, or if its requests ended now."""
    if session.keep_alive_s > _LONGEST_S:
        return None
    seconds = session.keep_alive_s
    if session.num_leases == 0:
        seconds -= asyncio.get_running_loop().time() - session.idle_since
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _expiry(model: LoadedModel) -> float:
    return math.inf if model.expires_at is None else model.expires_at.timestamp()


def _notice_result(task: asyncio.Task[Runner]) -> None:
    """Look at a load's error, so that asyncio does not report one whose clients have gone."""
    if not task.cancelled() and task.exception() is not None:
        _log.warning("load failed error=%s", task.exception())
