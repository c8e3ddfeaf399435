"""The loaded runners: sharing, keep-alive, eviction, the queue of loads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from olla.caller import CALLER, Caller
from olla.errors import FormatError, NoRoom, OutOfMemory, RunnerDied, ServerBusy
from olla.names import ModelName
from olla.runner.pool import Lease, LoadingModel, RunnableModel, RunnerPool
from olla.runner.protocol import LoadProgress
from olla.runner.slots import Waiting, WaitState
from olla.settings import Settings
from tests.fakes import FakeRunner, FakeSpawn

SETTINGS = Settings(home=Path("/nowhere"), models=Path("/nowhere"))
BUSY = "server busy, please try again.  maximum pending requests exceeded"
SOON_S = 0.02


def _model(name: str, weights: str | None = None, context_length: int = 100) -> RunnableModel:
    files = {"model.gguf": f"/blobs/{weights or name}"}
    return RunnableModel(ModelName.parse(name), weights or name, files, context_length)


def _plenty(device: str) -> int:
    return 10**12


A, B, C = (_model(name) for name in "abc")


@pytest.fixture
def spawn() -> FakeSpawn:
    return FakeSpawn()


@pytest.fixture
async def pool(spawn: FakeSpawn) -> AsyncIterator[RunnerPool]:
    async with _open(spawn) as pool:
        yield pool


@asynccontextmanager
async def _open(
    spawn: FakeSpawn, free: Callable[[str], int | None] = _plenty, **changes: object
) -> AsyncIterator[RunnerPool]:
    """A pool with some settings changed, closed at the end."""
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    pool = RunnerPool(settings, spawn, free)
    yield pool
    await pool.close()


async def _use(pool: RunnerPool, model: RunnableModel, keep_alive_s: float | None = None) -> None:
    (await pool.acquire(model, keep_alive_s)).release()


def _start(pool: RunnerPool, model: RunnableModel) -> asyncio.Task[Lease]:
    return asyncio.create_task(pool.acquire(model))


def _names(pool: RunnerPool) -> set[str]:
    return {model.name.model for model in pool.list()}


async def _settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_load_gets_the_files_and_the_settings(spawn: FakeSpawn) -> None:
    async with _open(spawn, num_threads=3) as pool:
        await _use(pool, A)

    assert spawn.loads[0].files == A.files
    assert spawn.loads[0].num_threads == 3


async def test_a_loaded_model_is_used_again(pool: RunnerPool, spawn: FakeSpawn) -> None:
    first = await pool.acquire(A)
    second = await pool.acquire(A)

    assert first.runner is second.runner
    assert len(spawn.runners) == 1
    assert first.load_ns > 0


async def test_names_with_the_same_weights_share_a_runner(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    one = await pool.acquire(_model("one", "w"))
    two = await pool.acquire(_model("two", "w"))

    assert one.runner is two.runner
    assert _names(pool) == {"one", "two"}


@pytest.mark.parametrize(
    "changes", [{"quantize": "int8"}, {"num_gpu": 0}, {"main_gpu": 1}, {"num_threads": 2}], ids=str
)
async def test_models_that_are_loaded_otherwise_have_runners_of_their_own(
    pool: RunnerPool, spawn: FakeSpawn, changes: dict[str, object]
) -> None:
    one, other = _model("one", "w"), _model("two", "w")
    await _use(pool, one)
    await _use(pool, replace(other, **changes))  # type: ignore[arg-type]

    load = spawn.loads[1]
    assert len(spawn.runners) == 2
    assert {name: getattr(load, name) for name in changes} == changes


async def test_the_settings_say_how_to_quantize_when_the_model_does_not(spawn: FakeSpawn) -> None:
    async with _open(spawn, quantize="int4") as pool:
        await _use(pool, A)
        await _use(pool, replace(B, quantize="none"))

    assert [load.quantize for load in spawn.loads] == ["int4", "none"]


async def test_a_window_is_told_as_the_runner_caps_it(pool: RunnerPool) -> None:
    await _use(pool, _model("a", context_length=10**6))
    await _use(pool, _model("b", context_length=100))

    windows = {model.name.model: model.context_length for model in pool.list()}
    assert windows == {"a": 4096, "b": 100}


async def test_a_shared_runner_lives_while_one_name_does(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    await _use(pool, _model("one", "w"))
    await _use(pool, _model("two", "w"), keep_alive_s=0)

    assert _names(pool) == {"one"}
    assert spawn.runners[0].alive


async def test_requests_for_a_model_that_loads_wait_for_one_load(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    leases = await asyncio.gather(*(pool.acquire(A) for _ in range(5)))

    assert len({id(lease.runner) for lease in leases}) == 1
    assert len(spawn.loads) == 1


async def test_a_load_tells_how_far_it_is(pool: RunnerPool, spawn: FakeSpawn) -> None:
    spawn.hold()
    loads = [_start(pool, model) for model in (A, B)]
    await spawn.has_begun.wait()
    before = pool.loading()
    spawn.on_progress(LoadProgress(45, 98))

    assert before == (LoadingModel(A.name, 0, 0), LoadingModel(B.name, 0, 0))
    assert pool.loading() == (LoadingModel(A.name, 45, 98), LoadingModel(B.name, 0, 0))
    assert pool.list() == ()

    spawn.release()
    await asyncio.gather(*loads)
    assert pool.loading() == ()


async def test_keep_alive_counts_from_the_end_of_the_last_request(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    lease = await pool.acquire(A, SOON_S)
    second = await pool.acquire(A)
    await asyncio.wait([asyncio.create_task(spawn.runners[0].closed.wait())], timeout=3 * SOON_S)
    assert spawn.runners[0].alive
    lease.release()
    second.release()
    ended = asyncio.get_running_loop().time()

    await spawn.runners[0].closed.wait()

    assert asyncio.get_running_loop().time() - ended >= SOON_S
    assert pool.list() == ()


async def test_a_request_without_keep_alive_leaves_what_was(pool: RunnerPool) -> None:
    await _use(pool, A, math.inf)
    await _use(pool, A)

    assert pool.list()[0].expires_at is None


async def test_a_new_model_gets_the_default_keep_alive(pool: RunnerPool) -> None:
    before = datetime.now(UTC)

    await _use(pool, A)

    expires_at = pool.list()[0].expires_at
    assert expires_at is not None
    assert timedelta(0) <= expires_at - before - timedelta(seconds=300) < timedelta(seconds=10)


async def test_a_keep_alive_past_all_calendars_is_forever(pool: RunnerPool) -> None:
    await _use(pool, A, 1e300)

    assert pool.list()[0].expires_at is None


async def test_keep_alive_zero_unloads_after_the_last_request(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    first = await pool.acquire(A)
    second = await pool.acquire(A, 0)
    second.release()
    assert _names(pool) == {"a"}

    first.release()

    await spawn.runners[0].closed.wait()
    assert pool.list() == ()


async def test_unload_waits_for_the_requests_that_run(pool: RunnerPool, spawn: FakeSpawn) -> None:
    lease = await pool.acquire(A)

    pool.unload(A.name)

    assert _names(pool) == {"a"}
    lease.release()
    assert _names(pool) == set()
    await spawn.runners[0].closed.wait()


async def test_unload_of_an_idle_model_is_immediate(pool: RunnerPool) -> None:
    await _use(pool, A, math.inf)

    pool.unload(A.name)

    assert pool.list() == ()


async def test_unload_of_a_model_that_is_not_loaded_is_nothing(pool: RunnerPool) -> None:
    pool.unload(A.name)


async def test_a_name_made_anew_leaves_its_old_runner(pool: RunnerPool, spawn: FakeSpawn) -> None:
    await _use(pool, _model("a", "old"))

    await _use(pool, _model("a", "new"))

    assert len(pool.list()) == 1
    await spawn.runners[0].closed.wait()


async def test_the_list_tells_sizes_and_the_window_asked_for(pool: RunnerPool) -> None:
    await _use(pool, A, math.inf)
    await _use(pool, replace(A, context_length=77))

    (model,) = pool.list()

    assert (model.size_bytes, model.vram_bytes, model.context_length) == (1000, 600, 77)


async def test_the_list_has_the_longest_kept_first(pool: RunnerPool) -> None:
    await _use(pool, A, 10)
    await _use(pool, B, math.inf)
    await _use(pool, C, 20)

    assert [model.name.model for model in pool.list()] == ["b", "c", "a"]


async def test_the_least_recently_used_idle_runner_makes_room(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=2) as pool:
        await _use(pool, A)
        await _use(pool, B)
        await _use(pool, A)

        await _use(pool, C)

        assert _names(pool) == {"a", "c"}


async def test_a_runner_kept_forever_makes_room_last(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=2) as pool:
        await _use(pool, A, math.inf)
        await _use(pool, B)

        await _use(pool, C)

        assert _names(pool) == {"a", "c"}


async def test_the_runner_kept_shortest_makes_room_first(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=2) as pool:
        await _use(pool, A, 3600)
        await _use(pool, B, 60)

        await _use(pool, C)

        assert _names(pool) == {"a", "c"}


async def test_a_load_waits_until_a_runner_is_idle(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=1) as pool:
        lease = await pool.acquire(A)
        waiting = _start(pool, B)
        await _settled()
        assert _names(pool) == {"a"}

        lease.release()
        await waiting

        assert _names(pool) == {"b"}
        assert spawn.runners[0].closed.is_set()


async def test_a_loaded_model_never_waits_behind_a_load(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=1, max_queue=0) as pool:
        await pool.acquire(A)
        waiting = _start(pool, B)
        await _settled()

        lease = await pool.acquire(A)

        assert lease.runner.alive
        waiting.cancel()


async def test_models_load_one_at_a_time(pool: RunnerPool, spawn: FakeSpawn) -> None:
    spawn.hold()
    tasks = [_start(pool, model) for model in (A, B, C)]
    await _settled()
    assert len(spawn.loads) == 1

    spawn.release()
    await asyncio.gather(*tasks)

    assert len(spawn.loads) == 3


async def test_past_the_queue_the_server_is_busy(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_queue=1) as pool:
        spawn.hold()
        tasks = [_start(pool, A), _start(pool, B)]
        await _settled()

        with pytest.raises(ServerBusy) as caught:
            await pool.acquire(C)

        assert str(caught.value) == BUSY
        spawn.release()
        await asyncio.gather(*tasks)
        await _use(pool, C)


async def test_a_load_survives_the_client_that_asked_for_it(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    spawn.hold()
    task = _start(pool, A)
    await spawn.has_begun.wait()
    task.cancel()
    await _settled()

    spawn.release()
    await _settled()

    assert _names(pool) == {"a"}


async def test_a_load_nobody_waits_for_any_more_does_not_begin(
    pool: RunnerPool, spawn: FakeSpawn
) -> None:
    spawn.hold()
    first, second = _start(pool, A), _start(pool, B)
    await _settled()
    second.cancel()
    await _settled()

    spawn.release()
    await first
    await _settled()

    assert len(spawn.loads) == 1


async def test_a_load_that_fails_tells_all_who_wait(pool: RunnerPool, spawn: FakeSpawn) -> None:
    spawn.error = FormatError("broken file")
    results = await asyncio.gather(pool.acquire(A), pool.acquire(A), return_exceptions=True)

    assert list(results) == [spawn.error, spawn.error]
    spawn.error = None
    await _use(pool, A)


async def test_a_dead_runner_is_replaced(pool: RunnerPool, spawn: FakeSpawn) -> None:
    lease = await pool.acquire(A)
    spawn.runners[0].die()

    again = await pool.acquire(A)

    assert again.runner is spawn.runners[1]
    lease.release()
    assert _names(pool) == {"a"}


async def test_a_dead_runner_is_not_listed(pool: RunnerPool, spawn: FakeSpawn) -> None:
    await _use(pool, A)
    spawn.runners[0].die()

    assert pool.list() == ()


async def test_a_lease_is_released_once(pool: RunnerPool, spawn: FakeSpawn) -> None:
    first, second = await pool.acquire(A, 0), await pool.acquire(A)
    first.release()
    first.release()

    assert _names(pool) == {"a"}
    second.release()


async def test_closing_ends_all_runners_and_loads(spawn: FakeSpawn) -> None:
    pool = RunnerPool(SETTINGS, spawn)
    await _use(pool, A)
    spawn.hold()
    task = _start(pool, B)
    await _settled()

    await pool.close()

    assert spawn.runners[0].closed.is_set()
    with pytest.raises(RunnerDied):
        await task
    assert pool.list() == ()


async def test_memory_is_free_before_the_next_load(spawn: FakeSpawn) -> None:
    has_closed: list[bool] = []

    async def spawn_noting(load: object, **_: object) -> FakeRunner:
        has_closed.extend(runner.closed.is_set() for runner in runners)
        runners.append(FakeRunner())
        return runners[-1]

    runners: list[FakeRunner] = []
    pool = RunnerPool(replace(SETTINGS, max_loaded_models=1), spawn_noting)
    await _use(pool, A)
    await _use(pool, B)
    await pool.close()

    assert has_closed == [True]


async def test_a_model_that_does_not_fit_beside_others_makes_room_first(spawn: FakeSpawn) -> None:
    """A fifth of what is free stays so."""
    async with _open(spawn, lambda _device: 1000) as pool:
        await _use(pool, replace(A, needed_bytes=5000))  # with nothing else loaded it may try
        await _use(pool, replace(B, needed_bytes=801))
        assert _names(pool) == {"b"}

        await _use(pool, replace(C, needed_bytes=800))

        assert _names(pool) == {"b", "c"}


async def test_where_nothing_tells_of_memory_the_count_alone_decides(spawn: FakeSpawn) -> None:
    async with _open(spawn, lambda _device: None) as pool:
        await _use(pool, A)
        await _use(pool, replace(B, needed_bytes=10**15))

        assert _names(pool) == {"a", "b"}


async def test_what_does_not_fit_beside_others_is_tried_once_more_alone(spawn: FakeSpawn) -> None:
    async with _open(spawn) as pool:
        await _use(pool, A)
        spawn.error = OutOfMemory("model requires more system memory")

        with pytest.raises(OutOfMemory):
            await _use(pool, B)

        assert len(spawn.loads) == 3
        assert _names(pool) == set()
        with pytest.raises(OutOfMemory):
            await _use(pool, C)
        assert len(spawn.loads) == 4


async def test_a_load_does_not_wait_for_ever_for_models_in_use(spawn: FakeSpawn) -> None:
    async with _open(spawn, max_loaded_models=1, load_timeout_s=SOON_S) as pool:
        lease = await pool.acquire(A)

        with pytest.raises(NoRoom, match=r"no room for model .*b.* stop one of them or raise"):
            await pool.acquire(B)

        lease.release()
        await _use(pool, B)
        assert _names(pool) == {"b"}


async def test_a_load_whose_clients_leave_while_it_waits_for_room_evicts_nobody(
    spawn: FakeSpawn,
) -> None:
    async with _open(spawn, max_loaded_models=1) as pool:
        lease = await pool.acquire(A)
        waiting = _start(pool, B)
        await _settled()
        waiting.cancel()
        await _settled()
        lease.release()
        await _settled()

        assert _names(pool) == {"a"}
        assert len(spawn.loads) == 1


async def test_the_queue_tells_who_waits_for_what(spawn: FakeSpawn) -> None:
    async with _open(spawn, num_parallel=1) as pool:
        spawn.hold()
        tasks = []
        for number, model in enumerate((A, B, A, C)):
            CALLER.set(Caller(str(number), "me"))
            tasks.append(_start(pool, model))
            await _settled()

        places = {(entry.caller.request_id, entry.state, entry.position) for entry in pool.queue()}
        assert places == {
            ("0", WaitState.LOADING, 0),
            ("2", WaitState.LOADING, 0),
            ("1", WaitState.QUEUED, 1),
            ("3", WaitState.QUEUED, 2),
        }
        spawn.release()
        await asyncio.gather(*tasks)
        assert pool.queue() == ()


async def test_who_waits_for_a_turn_is_in_the_queue(spawn: FakeSpawn) -> None:
    async with _open(spawn, num_parallel=1) as pool:
        lease = await pool.acquire(A)
        async with lease.turn():
            caller = Caller("late", "me")
            CALLER.set(caller)
            late = asyncio.create_task(lease.turn().__aenter__())
            await _settled()

            assert pool.queue() == (Waiting(caller, A.name, WaitState.QUEUED, 1),)
        await late
        assert pool.queue() == ()


async def test_a_runner_is_told_how_many_sequences_may_run(spawn: FakeSpawn) -> None:
    async with _open(spawn, num_parallel=2) as pool:
        await _use(pool, A)

    assert spawn.loads[0].max_running == 2
