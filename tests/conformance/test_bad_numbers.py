"""Options at and past their limits get an answer or a refusal, never a hang or a dead runner."""

from __future__ import annotations

import json

import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("store")]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("option", ["temperature", "top_p", "num_predict"])
def test_numbers_that_are_none_are_refused(daemon: Daemon, option: str, text: str) -> None:
    body = f'{{"model":"{MODEL}","prompt":"x","options":{{"{option}":{text}}}}}'

    assert daemon.ask("POST", "/api/generate", body.encode()).status == 400


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for value in (-1, 0, 9e18, -9e18) for name in (
            "temperature", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty",
            "repeat_penalty",
        )),
        *({name: value} for value in (-7, 0, 2**63 - 1, -(2**63)) for name in (
            "top_k", "seed", "num_keep", "num_thread", "num_batch", "num_gpu", "num_ctx",
        )),
        *({"repeat_last_n": value, "repeat_penalty": 2} for value in (-7, 2**63 - 1)),
        {"stop": [""]},
        {"stop": 1000 * ["x"]},
        {"stop": [100_000 * "x"]},
    ],
    ids=lambda options: json.dumps(options)[:40],
)  # fmt: skip
def test_absurd_numbers_are_answered(daemon: Daemon, options: dict[str, object]) -> None:
    request = {"model": MODEL, "prompt": "Once", "raw": True, "stream": False}
    daemon.ask("POST", "/api/generate", {"model": MODEL})
    before = daemon.runner_pids()

    answer = daemon.ask(
        "POST", "/api/generate", {**request, "options": {"num_predict": 2, **options}}
    )

    assert answer.status == 200
    assert answer.json["done_reason"] in {"stop", "length"}
    is_loaded_anew = options.get("num_thread", 0) > 0  # type: ignore[operator]
    assert (daemon.runner_pids() == before) is not is_loaded_anew


@pytest.mark.parametrize(
    ("options", "num_tokens"),
    [
        ({"num_predict": 0}, 0),
        ({"num_predict": 1}, 1),
        ({"num_ctx": 1, "num_predict": 6}, 6),
        ({"num_ctx": 10**9, "num_predict": 3}, 3),
    ],
)
def test_lengths_at_their_limits(
    daemon: Daemon, options: dict[str, object], num_tokens: int
) -> None:
    request = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "raw": True, "stream": False}

    answer = daemon.ask(
        "POST", "/api/generate", {**request, "options": {"temperature": 0, **options}}
    )

    assert answer.json["done_reason"] == "length"
    assert answer.json.get("eval_count", 0) == num_tokens


def test_a_window_past_the_trained_length_is_cut_to_it(daemon: Daemon) -> None:
    daemon.ask("POST", "/api/generate", {"model": MODEL, "options": {"num_ctx": 10**9}})

    (running,) = daemon.ask("GET", "/api/ps").json["models"]
    assert running["context_length"] == 8192


def test_a_negative_num_predict_sets_no_limit(daemon: Daemon) -> None:
    options = {"num_predict": -2, "num_ctx": 4, "temperature": 2.0, "top_k": 0, "seed": 5}
    request = {"model": MODEL, "prompt": "1, 2,", "raw": True, "stream": False}

    answer = daemon.ask("POST", "/api/generate", {**request, "options": options})

    # Ten windows are the most.
    assert (answer.json["done_reason"], answer.json["eval_count"]) == ("length", 40)
