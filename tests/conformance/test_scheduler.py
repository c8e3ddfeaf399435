"""The fifteen scenarios of spec/scheduler.md section 9, over HTTP, with real runners.

One daemon has SmolLM2 and two copies of a tiny model under other weights; a second one is held to
one loaded model, one sequence and a queue of one.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.test_faults import LONG, eventually, lines, posted, runner_pid
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.weights

BUSY = "server busy, please try again.  maximum pending requests exceeded"
TINY = ("tiny-a", "tiny-b")


def create_tiny(daemon: Daemon, folder: Path) -> None:
    """Models of random weights that load quickly, each with weights of its own."""
    for seed, name in enumerate(TINY):
        files = save_tiny_model(folder / name, seed=seed)
        with ollama.Client(daemon.url) as client:
            digests = {file: client.create_blob(path) for file, path in files.items()}
            client.create(name, files=digests)


@pytest.fixture(scope="module")
def models(daemon: Daemon, client: ollama.Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    create_tiny(daemon, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One loaded model, one sequence at a time, a queue of one."""
    limits = {"MAX_LOADED_MODELS": "1", "NUM_PARALLEL": "1", "MAX_QUEUE": "1"}
    home = tmp_path_factory.mktemp("narrow")
    with running_daemon(home, **{f"OLLAMA_{k}": v for k, v in limits.items()}) as daemon:
        create_tiny(daemon, tmp_path_factory.mktemp("tiny"))
        assert daemon.ask("POST", "/api/pull", {"model": MODEL}).status == 200
        yield daemon


@pytest.fixture
def tiny(alone: None, models: None, daemon: Daemon) -> str:
    """The name of a tiny model on a daemon where nothing is loaded."""
    return TINY[0]


def generate(daemon: Daemon, model: str, prompt: str = "Hi", **fields: Any) -> Any:
    options = {"temperature": 0, "seed": 1, "num_predict": 3, **fields.pop("options", {})}
    body = {"model": model, "prompt": prompt, "stream": False, "options": options, **fields}
    answer = daemon.ask("POST", "/api/generate", body)
    assert answer.status == 200, answer
    return answer.json


def loaded(daemon: Daemon) -> list[str]:
    return [model["name"] for model in daemon.ask("GET", "/api/ps").json["models"]]


def endless(model: str, num_predict: int = 3000) -> dict[str, Any]:
    """A reply that takes its time: SmolLM2 counts, a random model babbles."""
    return {**LONG, "model": model, "options": {"temperature": 0, "num_predict": num_predict}}


def test_1_a_model_leaves_when_its_keep_alive_is_over(daemon: Daemon, tiny: str) -> None:
    assert generate(daemon, tiny, "", keep_alive="1s")["done_reason"] == "load"
    assert loaded(daemon) == [f"{tiny}:latest"]

    eventually(lambda: loaded(daemon) == [], "the model leaves")


def test_2_a_negative_keep_alive_is_forever(daemon: Daemon, tiny: str) -> None:
    generate(daemon, tiny, "", keep_alive=-1)
    (model,) = daemon.ask("GET", "/api/ps").json["models"]

    ahead = datetime.fromisoformat(model["expires_at"][:19]).replace(tzinfo=UTC)
    assert ahead - datetime.now(UTC) > timedelta(days=20 * 365)
    assert "Forever" in daemon.run("ps").stdout


def test_3_keep_alive_0_lets_a_running_stream_end(daemon: Daemon, alone: None) -> None:
    with posted(daemon, "/api/generate", endless(MODEL, 40)) as connection:
        replies = lines(connection)
        next(replies)
        assert generate(daemon, MODEL, "", keep_alive=0)["done_reason"] == "unload"
        assert list(replies)[-1]["done_reason"] == "length"
    eventually(lambda: loaded(daemon) == [], "the model leaves")


def test_4_with_room_for_one_the_running_request_ends_first(narrow: Daemon) -> None:
    with posted(narrow, "/api/generate", endless(MODEL, 40)) as connection:
        replies = lines(connection)
        next(replies)
        with ThreadPoolExecutor() as threads:
            second = threads.submit(generate, narrow, TINY[0])
            assert list(replies)[-1]["done_reason"] == "length"
            assert second.result(60)["done"]
    assert loaded(narrow) == [f"{TINY[0]}:latest"]


def test_4_with_room_for_more_both_stay(daemon: Daemon, tiny: str) -> None:
    for name in TINY:
        generate(daemon, name)

    assert set(loaded(daemon)) == {f"{name}:latest" for name in TINY}


def test_5_past_the_queue_requests_are_turned_away(narrow: Daemon) -> None:
    with posted(narrow, "/api/generate", endless(MODEL)) as connection:
        next(lines(connection))  # nothing can be loaded while this one runs
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(narrow.ask, "POST", "/api/generate", {"model": name})
                     for name in TINY * 3]  # fmt: skip
            eventually(lambda: sum(future.done() for future in asked) == 4, "four are refused")
            assert generate(narrow, MODEL, "", keep_alive=60)["done"]  # what is loaded passes
            refused = [future.result() for future in asked if future.done()]
            connection.close()
            answers = [future.result(60) for future in asked]

    assert {(answer.status, answer.error) for answer in refused} == {(503, BUSY)}
    assert sorted(answer.status for answer in answers) == [200, 200, 503, 503, 503, 503]


def moments(daemon: Daemon) -> list[float]:
    with posted(daemon, "/api/generate", endless(MODEL, 25)) as connection:
        return [time.monotonic() for _ in lines(connection)]


def changes_of_turn(daemon: Daemon) -> int:
    """How often two streams at once take over from each other."""
    generate(daemon, MODEL)
    with ThreadPoolExecutor() as threads:
        both = [future.result(60) for future in [threads.submit(moments, daemon) for _ in "ab"]]
    turns = sorted((moment, number) for number in (0, 1) for moment in both[number])
    return sum(before[1] != after[1] for before, after in itertools.pairwise(turns))


def test_6_with_one_turn_the_second_reply_starts_after_the_first(narrow: Daemon) -> None:
    assert changes_of_turn(narrow) == 1


def test_6_with_two_turns_replies_flow_at_once(narrow: Daemon, tmp_path: Path) -> None:
    settings = {"OLLAMA_NUM_PARALLEL": "2", "OLLA_MODELS": str(narrow.models)}
    with running_daemon(tmp_path, **settings) as daemon:
        assert changes_of_turn(daemon) > 5


def test_6_who_waits_for_a_turn_is_seen(narrow: Daemon) -> None:
    with posted(narrow, "/api/generate", endless(MODEL)) as connection:
        next(lines(connection))
        with posted(narrow, "/api/generate", {**LONG, "options": {"num_predict": 1}}):
            eventually(lambda: "queue" in narrow.ask("GET", "/api/ps").json, "one is queued")
            (entry,) = narrow.ask("GET", "/api/ps").json["queue"]
            shown = narrow.run("ps").stdout

    assert (entry["model"], entry["state"], entry["position"]) == (MODEL, "queued", 1)
    assert entry["client"] == "127.0.0.1" and entry["request_id"]
    assert [line.split() for line in shown.splitlines()][-1][-3:] == ["queued,", "place", "1"]


def test_7_another_num_ctx_is_a_cap_and_no_reload(daemon: Daemon, tiny: str) -> None:
    generate(daemon, tiny, options={"num_ctx": 64})
    pid = runner_pid(daemon)
    reply = generate(daemon, tiny, "x" * 500, options={"num_ctx": 32, "num_predict": 1})

    assert runner_pid(daemon) == pid
    assert reply["prompt_eval_count"] <= 32
    assert daemon.ask("GET", "/api/ps").json["models"][0]["context_length"] == 32


def test_8_a_client_that_leaves_starts_the_keep_alive(daemon: Daemon, tiny: str) -> None:
    with posted(daemon, "/api/generate", {**endless(tiny), "keep_alive": "2s"}) as connection:
        next(lines(connection))
    started = time.monotonic()
    generate(daemon, tiny)

    assert time.monotonic() - started < 2
    eventually(lambda: loaded(daemon) == [], "the model leaves")


def test_9_the_same_prompt_again_is_cheap_and_counts_alike(daemon: Daemon, alone: None) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 40
    first, second = (generate(daemon, MODEL, prompt) for _ in range(2))

    assert second["prompt_eval_count"] == first["prompt_eval_count"]
    assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 3


def test_10_num_predict_ends_with_length(daemon: Daemon, client: ollama.Client) -> None:
    reply = client.generate(MODEL, "Count:", options={"num_predict": 5, "temperature": 0})

    assert (reply.eval_count, reply.done_reason) == (5, "length")


def test_11_greedy_replies_are_identical(daemon: Daemon, tiny: str) -> None:
    texts = {generate(daemon, tiny, options={"num_predict": 20})["response"] for _ in range(2)}

    assert len(texts) == 1


def test_12_a_prompt_that_is_too_long_and_may_not_be_cut(daemon: Daemon, tiny: str) -> None:
    body = {"model": tiny, "prompt": "x" * 200, "raw": True, "truncate": False, "shift": False,
            "options": {"num_ctx": 64}}  # fmt: skip
    answer = daemon.ask("POST", "/api/generate", body)

    assert answer.status == 400
    assert "context" in answer.error


def test_13_past_the_window_a_reply_goes_on_unless_it_may_not(daemon: Daemon, tiny: str) -> None:
    options = {"num_ctx": 32, "num_predict": 100}
    shifted = generate(daemon, tiny, "abc", raw=True, options=options)
    ended = generate(daemon, tiny, "abc", raw=True, shift=False, options=options)

    assert shifted["eval_count"] > 32 or shifted["done_reason"] == "stop"
    assert ended["done_reason"] == "length"
    assert ended["eval_count"] <= 32


def test_14_a_killed_engine_costs_the_request_and_no_other(daemon: Daemon, alone: None) -> None:
    with posted(daemon, "/api/generate", endless(MODEL)) as connection:
        replies = lines(connection)
        next(replies)
        os.kill(runner_pid(daemon), signal.SIGKILL)
        assert "error" in list(replies)[-1]

    assert generate(daemon, MODEL)["done"]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_15_unloading_what_is_not_loaded_is_no_error(daemon: Daemon, tiny: str, path: str) -> None:
    answer = daemon.ask("POST", path, {"model": tiny, "keep_alive": 0})

    assert (answer.status, answer.json["done_reason"]) == (200, "unload")
