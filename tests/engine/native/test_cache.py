"""Keys and values in 8 bits change how much a cache holds, never what else decides on a reply."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.native.library import find_library
from olla.engine.speculator import Speculation
from olla.runner.child import make_engine
from olla.runner.protocol import Load
from tests.bench.fidelity import TEXT, olla_prediction
from tests.engine.driving import GREEDY, SAMPLED, add, ask, drain, finished, text_of
from tests.engine.test_speculator import Eager
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.skipif(find_library() is None, reason="no compiled core")

REPEATING = "one two three, one two three, one two three, one two"
REQUESTS = [
    ask(number, f"{number} {REPEATING}", num_predict=60, sampling=SAMPLED if number % 2 else GREEDY)
    for number in range(5)
]


def load(files: dict[str, str], kv_cache_type: str = "q8_0", dtype: str = "auto") -> LoadedModel:
    quantize = "int8" if dtype == "auto" else "auto"
    return load_model(
        files, dtype, "cpu", 1, lambda done, total: None, quantize=quantize,
        kv_cache_type=kv_cache_type,
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model with windows and caps, whose heads are whole blocks."""
    folder = tmp_path_factory.mktemp("gemma2")
    return save_tiny_model(folder, "gemma2", sliding_window=24, head_dim=32)


@pytest.fixture(scope="module")
def model(files: dict[str, str]) -> LoadedModel:
    return load(files)


def said(engine: Engine) -> dict[int, str]:
    for request in REQUESTS:
        add(engine, request)
    return {number: text_of(messages) for number, messages in drain(engine).items()}


def test_the_same_memory_holds_almost_twice_the_tokens(
    files: dict[str, str], model: LoadedModel
) -> None:
    request = Load(files, kv_cache_bytes=2**20)

    halves, bytes_ = (make_engine(m, request) for m in (load(files, "f16"), model))

    assert bytes_.cache_bytes_per_token / halves.cache_bytes_per_token == 8.5 / 16
    assert bytes_.num_cache_tokens // 16 == int(halves.num_cache_tokens / 16 * 16 / 8.5)


@pytest.mark.parametrize("cache_tokens", [4096, 192])
def test_replies_are_the_same_alone_drafted_and_with_little_room(
    model: LoadedModel, cache_tokens: int
) -> None:
    alone = {request.id: "" for request in REQUESTS}
    for request in REQUESTS:
        engine = Engine(model)
        add(engine, request)
        alone[request.id] = text_of(drain(engine)[request.id])

    drafting = Engine(model, cache_tokens, speculation=Speculation(Eager()))

    assert said(Engine(model, cache_tokens)) == alone
    assert said(drafting) == alone
    assert drafting.num_free_blocks == cache_tokens // 16


def test_a_prefix_from_the_cache_gives_the_text_of_a_fresh_engine(model: LoadedModel) -> None:
    engine = Engine(model)
    add(engine, ask(7, REPEATING, num_predict=30))
    for _ in range(5):
        engine.step()
    engine.cancel(7)

    add(engine, ask(8, REPEATING, num_predict=30))
    cached = drain(engine)[8]
    fresh = Engine(model)
    add(fresh, ask(8, REPEATING, num_predict=30))

    assert finished(cached).num_cached_tokens == 48
    assert text_of(cached) == text_of(drain(fresh)[8])


@pytest.mark.weights
def test_perplexity_stays_within_a_hundredth(smollm2_gguf: Path) -> None:
    text = TEXT.read_text("utf-8")

    wide, narrow = (olla_prediction(smollm2_gguf, "auto", text, kind) for kind in ("f16", "q8_0"))

    assert narrow.perplexity == pytest.approx(wide.perplexity, rel=0.01)
    assert 0 < narrow.divergence_from(wide) < 0.01


def test_where_torch_computes_the_log_says_that_the_cache_stays_wide(
    files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        wide = load(files, dtype="float32")

    assert wide.network.cache_bytes_per_token == 2 * 2 * 2 * 32 * 4
    assert "stay in torch.float32: OLLA_KV_CACHE_TYPE=q8_0 is for models" in caplog.text
