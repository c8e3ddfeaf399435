"""RunnerPool: the loaded runners: load, share, keep alive, evict, list.

Owns which runners live and for how long; knows nothing about prompts. Names whose models have
the same weights share one runner; each name has a session with a keep-alive of its own, which
counts from the end of its last request. A runner lives as long as it has sessions. One model
loads at a time, and a load that has begun goes on when its client leaves. A request for a loaded
model never waits here for a load, so a load may wait for models that are always in use: it gives
up after the load time-out. The rules are those of spec/scheduler.md; of models that are kept
equally long, the least recently used one makes room.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from olla.caller import CALLER
from olla.errors import NoRoom, OutOfMemory, RunnerDied, ServerBusy
from olla.names import ModelName
from olla.runner.devices import free_memory, num_gpus
from olla.runner.observer import Nobody, Observer
from olla.runner.process import Runner, RunnerProcess
from olla.runner.protocol import MAX_RUNNING, Load, LoadProgress, Stepped
from olla.runner.slots import (
    Lease,
    LoadedModel,
    LoadingModel,
    RunnableModel,
    Session,
    Slot,
    Waiting,
)
from olla.runner.turns import Turns
from olla.settings import Settings

__all__ = ["Lease", "LoadedModel", "LoadingModel", "RunnableModel", "RunnerPool", "Waiting"]

MODELS_PER_GPU = 3
FREE_SHARE = 0.8
"""A model is loaded beside others only if it seems to fit into this share of what is free."""

_log = logging.getLogger(__name__)


class Spawn(Protocol):
    def __call__(
        self,
        load: Load,
        *,
        load_timeout_s: float,
        on_progress: Callable[[LoadProgress], None],
        on_stepped: Callable[[Stepped], None],
    ) -> Awaitable[Runner]: ...


class RunnerPool:
    def __init__(
        self,
        settings: Settings,
        spawn: Spawn = RunnerProcess.start,
        free: Callable[[str], int | None] = free_memory,
        observer: Observer | None = None,
    ) -> None:
        """`free` tells how much memory there is where models run; it may block."""
        self._settings = settings
        self._spawn = spawn
        self._free = free
        self._observer = observer or Nobody()
        self._max_loaded = settings.max_loaded_models or MODELS_PER_GPU * max(num_gpus(), 1)
        self._slots: dict[str, Slot] = {}
        self._load_lock = asyncio.Lock()
        self._has_changed = asyncio.Event()
        self._closings: set[asyncio.Task[None]] = set()

    async def acquire(self, model: RunnableModel, keep_alive_s: float | None = None) -> Lease:
        """Get the runner of a model, loading it if need be.

        Args:
            keep_alive_s: how long to keep it after this; None leaves what was, or the default.

        Raises:
            ServerBusy: too many requests wait for a load already.
            NoRoom: the models in memory were in use for too long.
            OllaError: the model cannot be loaded.
        """
        started = time.monotonic_ns()
        self._forget_elsewhere(model)
        slot = self._slot(model)
        session = self._session(slot, model, keep_alive_s)
        session.num_leases += 1
        try:
            runner = slot.runner or await self._loaded(slot, model.name)
        except BaseException:
            self._release(slot, session)
            raise
        load_ns = time.monotonic_ns() - started
        return Lease(runner, slot.turns, load_ns, lambda: self._release(slot, session))

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
        models = [model for slot in self._slots.values() for model in slot.loaded_models()]
        return tuple(sorted(models, key=_expiry, reverse=True))

    def loading(self) -> tuple[LoadingModel, ...]:
        """What waits to be loaded, and how far it is."""
        return tuple(
            LoadingModel(name, slot.progress.completed_bytes, slot.progress.total_bytes)
            for slot in self._slots.values()
            if slot.runner is None
            for name in slot.sessions
        )

    def queue(self) -> tuple[Waiting, ...]:
        """Every request that waits, for a load or for its turn."""
        waiting: list[Waiting] = []
        num_loads = 0
        for slot in self._slots.values():
            num_loads += slot.runner is None and not slot.has_begun
            waiting += slot.queue(num_loads)
        return tuple(waiting)

    async def close(self) -> None:
        """End every runner, loaded or loading."""
        slots = tuple(self._slots.values())
        loads = [slot.task for slot in slots if slot.task is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for slot in slots:
            self._drop(slot)
        while self._closings:
            await asyncio.wait(self._closings)

    def _slot(self, model: RunnableModel) -> Slot:
        """The slot of a model's weights; a new one begins to load.

        Raises:
            ServerBusy: it is not loaded, and the queue is full.
        """
        self._drop_dead()
        slot = self._slots.get(model.runner_key)
        num_waiting = sum(len(slot.waiting) for slot in self._slots.values())
        # One load is under way; the queue holds those behind it.
        if (slot is None or slot.runner is None) and num_waiting > self._settings.max_queue:
            raise ServerBusy
        if slot is None:
            turns = Turns(_max_running(self._settings))
            slot = self._slots[model.runner_key] = Slot(model, turns)
            slot.task = asyncio.create_task(self._load(slot), name="load")
            slot.task.add_done_callback(_notice_result)
        return slot

    def _session(self, slot: Slot, model: RunnableModel, keep_alive_s: float | None) -> Session:
        session = slot.sessions.get(model.name)
        if session is None:
            session = Session(model.name, self._settings.keep_alive_s)
            slot.sessions[model.name] = session
        session.stop_timer()
        session.context_length = model.context_length
        if keep_alive_s is not None:
            session.keep_alive_s = keep_alive_s
        return session

    async def _loaded(self, slot: Slot, name: ModelName) -> Runner:
        """Wait for the load, which goes on if this waiting is cancelled."""
        assert slot.task is not None
        place = (CALLER.get(), name)
        slot.waiting.append(place)
        try:
            await asyncio.wait({slot.task})
        finally:
            slot.waiting.remove(place)
        if slot.task.cancelled():  # the pool was closed, or nobody had waited any more
            raise RunnerDied
        return slot.task.result()

    async def _load(self, slot: Slot) -> Runner:
        try:
            async with self._load_lock:
                slot.runner = await self._begin(slot)
        finally:
            if slot.runner is None:
                self._slots.pop(slot.model.runner_key, None)
                self._has_changed.set()
        for session in tuple(slot.sessions.values()):
            session.idle_since = asyncio.get_running_loop().time()
            self._settle(slot, session)
        return slot.runner

    async def _begin(self, slot: Slot) -> Runner:
        """Load when there is room; what does not fit after all may try once more alone."""
        await self._make_room(slot)
        slot.has_begun = True
        try:
            return await self._start(slot)
        except OutOfMemory as error:
            if all(other.runner is None for other in self._slots.values()):
                raise
            _log.warning("does not fit beside others model=%s error=%s", slot.model.name, error)
        await self._make_room(slot, alone=True)
        return await self._start(slot)

    async def _start(self, slot: Slot) -> Runner:
        name = slot.model.name
        started = time.monotonic()

        def on_progress(progress: LoadProgress) -> None:
            slot.progress = progress

        _log.info("loading model=%s estimated_bytes=%d", name, slot.model.needed_bytes)
        try:
            runner = await self._spawn(
                _load_message(slot.model, self._settings),
                load_timeout_s=self._settings.load_timeout_s,
                on_progress=on_progress,
                on_stepped=lambda stepped: self._observer.stepped(name, stepped),
            )
        except BaseException:
            self._observer.load_failed(name)
            raise
        self._observer.loaded(name, time.monotonic() - started)
        return runner

    async def _make_room(self, slot: Slot, *, alone: bool = False) -> None:
        """Wait until one more runner may be loaded and the memory of those let go is free.

        Raises:
            CancelledError: those who wanted the load have gone before it began.
            NoRoom: the others are in use all the time that a load may wait for.
        """
        limit = self._settings.load_timeout_s
        try:
            async with asyncio.timeout(None if math.isinf(limit) else limit):
                while await self._is_crowded(slot, alone=alone):
                    await self._evict_one()
        except TimeoutError as error:
            raise NoRoom(str(slot.model.name), limit) from error

    async def _is_crowded(self, slot: Slot, *, alone: bool) -> bool:
        if self._closings:
            await asyncio.wait(self._closings)
        if slot.num_leases == 0 and not slot.has_begun:
            raise asyncio.CancelledError
        num_loaded = len(self._loaded_slots())
        if not num_loaded or alone or num_loaded >= self._max_loaded:
            return bool(num_loaded)
        free_bytes = await asyncio.to_thread(self._free, self._settings.device)
        return free_bytes is not None and slot.model.needed_bytes > FREE_SHARE * free_bytes

    async def _evict_one(self) -> None:
        """Let the first in the order of eviction go; if none is idle, wait for a change."""
        idle = [slot for slot in self._loaded_slots() if slot.num_leases == 0]
        if idle:
            self._drop(min(idle, key=lambda slot: (slot.keep_alive_s, slot.last_used)))
        elif self._loaded_slots():
            self._has_changed.clear()
            await self._has_changed.wait()

    def _loaded_slots(self) -> tuple[Slot, ...]:
        self._drop_dead()
        return tuple(slot for slot in self._slots.values() if slot.runner is not None)

    def _release(self, slot: Slot, session: Session) -> None:
        session.num_leases -= 1
        slot.last_used = session.idle_since = asyncio.get_running_loop().time()
        self._settle(slot, session)
        self._has_changed.set()

    def _settle(self, slot: Slot, session: Session) -> None:
        """Start the keep-alive of a session that is idle, or end it if that is over."""
        if session.num_leases > 0 or slot.runner is None:
            return
        session.stop_timer()
        loop = asyncio.get_running_loop()
        if not slot.runner.alive:
            self._drop(slot)
        elif session.keep_alive_s <= 0:
            self._expire(slot, session)
        elif not session.is_forever:
            when = session.idle_since + session.keep_alive_s
            session.timer = loop.call_at(when, self._expire, slot, session)

    def _expire(self, slot: Slot, session: Session) -> None:
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

    def _drop(self, slot: Slot) -> None:
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


def _load_message(model: RunnableModel, settings: Settings) -> Load:
    return Load(
        files=model.files,
        dtype=settings.dtype,
        device=settings.device,
        num_threads=model.num_threads or settings.num_threads,
        kv_cache_bytes=settings.kv_cache_bytes,
        kv_cache_type=settings.kv_cache_type,
        draft_files=model.draft_files,
        speculate=settings.speculate,
        quantize=model.quantize or settings.quantize,
        num_gpu=model.num_gpu,
        main_gpu=model.main_gpu,
        num_ctx=model.context_length,
        max_running=_max_running(settings),
        profile=settings.profile,
        debug=settings.debug,
        log=settings.log,
    )


def _max_running(settings: Settings) -> int:
    return settings.num_parallel or MAX_RUNNING


def _expiry(model: LoadedModel) -> float:
    return math.inf if model.expires_at is None else model.expires_at.timestamp()


def _notice_result(task: asyncio.Task[Runner]) -> None:
    """Look at a load's error, so that asyncio does not report one whose clients have gone."""
    if not task.cancelled() and task.exception() is not None:
        _log.warning("load failed error=%s", task.exception())
