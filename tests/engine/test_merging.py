"""An adapter that is alone is merged; replies stay what they are, and the base what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from olla.engine.adapters import AdapterTable, read_adapter
from olla.engine.cuda_graphs import DecodeGraphs
from olla.engine.engine import Engine
from olla.engine.executor import Recordings
from olla.engine.loading import LoadedModel, load_model
from olla.engine.merging import MAX_BYTES_ON_CPU, MergedCopy, Merging, room_on
from olla.engine.models.batch import CausalModel
from olla.engine.models.decoder import Decoder
from olla.engine.models.overlay import Place
from olla.engine.sequence import Sequence, SequenceState
from olla.options import SamplingParams
from olla.runner.protocol import Adapter, FromRunner, Piece
from tests.engine.driving import add, answers, ask, drain, text_of
from tests.engine.test_adapters import (
    assert_as_in_peft,
    generate,
    generate_with,
    save_adapter,
)
from tests.engine.test_cuda_graphs import FakeRecorder
from tests.tiny_model import files_of, save_tiny_model

ENOUGH = 20
"""Steps after which an adapter of a tiny model is merged, where merging begins at once."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and two adapters over it."""
    folder = tmp_path_factory.mktemp("merging")
    (folder / "base").mkdir()
    save_tiny_model(folder / "base")
    for seed in (1, 2):
        save_adapter(folder / "base", folder / str(seed), seed)
    return folder


def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(files_of(folder), dtype, "cpu", 0, lambda done, total: None)


@pytest.mark.parametrize(
    ("family", "shape", "settings", "is_merged"),
    [
        ("llama", {}, {}, True),
        ("qwen2", {}, {"use_dora": True, "bias": "lora_only"}, True),
        ("phi3", {}, {"target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}, True),
        ("qwen2", {}, {"lora_bias": True}, True),
        ("gemma2", {"query_pre_attn_scalar": 8},
         {"target_modules": ["q_proj"], "modules_to_save": ["norm", "down_proj"]}, True),
        ("llama", {}, {"trainable_token_indices": {"lm_head": [7, 9]}}, True),
        ("llama", {}, {"modules_to_save": ["embed_tokens"]}, False),
    ],
)  # fmt: skip
def test_a_merged_adapter_answers_as_in_peft(
    tmp_path: Path, family: str, shape: dict[str, Any], settings: dict[str, Any], is_merged: bool
) -> None:
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base", family, **shape)
    reference = save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1, **settings)
    engine = Engine(load(tmp_path / "base"), merge_after=1)
    generate(engine, [tmp_path / "adapter"])

    (tokens,) = generate(engine, [tmp_path / "adapter"])

    assert bool(engine.num_merged_bytes) is is_merged
    assert_as_in_peft(engine, reference, tokens)


def test_a_sum_of_adapters_is_merged_as_one(folder: Path) -> None:
    engine, other = (Engine(load(folder / "base"), merge_after=n) for n in (1, 1000))
    both = [Adapter(files_of(folder / "1"), 0.5), Adapter(files_of(folder / "2"), 1.5)]
    generate_with(engine, [both])

    merged = generate_with(engine, [both])

    assert engine.num_merged_bytes
    assert merged == generate_with(other, [both])


def test_the_base_is_the_same_to_the_bit_before_during_and_after(folder: Path) -> None:
    model, untouched = load(folder / "base", "bfloat16"), load(folder / "base", "bfloat16")
    engine = Engine(model, merge_after=1)
    (plain,) = generate(engine, [None])
    generate(engine, [folder / "1"])
    assert engine.num_merged_bytes

    assert generate(engine, [None]) == [plain]
    assert all(
        torch.equal(*both) for both in zip(*map(weights_of, (model, untouched)), strict=True)
    )


def weights_of(model: LoadedModel) -> list[Tensor]:
    assert isinstance(model.network, Decoder)
    places = (module for _, module in model.network.modules() if isinstance(module, Place))
    return [place.linear.weight.rows(torch.arange(place.end)) for place in places]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whoever_comes_while_an_adapter_is_merged_changes_no_reply(
    folder: Path, dtype: str
) -> None:
    model, same = (load(folder / "base", dtype) for _ in range(2))
    engine, other = Engine(model, merge_after=60), Engine(same)
    used = [[Adapter(files_of(folder / "1"))], [], [Adapter(files_of(folder / "2"))]]
    requests = [ask(n, num_predict=30, adapters=used[n]) for n in range(3)]
    while not engine.num_merged_bytes:
        generate(engine, [folder / "1"])
    alone = [answers(engine, requests[0]), *(answers(other, request) for request in requests[1:])]

    together: dict[int, list[FromRunner]] = {}
    for request in requests:
        add(engine, request)
        for message in [message for _ in range(5) for message in engine.step()]:
            assert isinstance(message, Piece)
            together.setdefault(message.id, []).append(message)
    for number, messages in drain(engine).items():
        together.setdefault(number, []).extend(messages)

    assert engine.num_merged_bytes
    assert [text_of(together[n]) for n in range(3)] == [text_of(messages) for messages in alone]


def sequence(adapter: int, state: SequenceState = SequenceState.WAITING) -> Sequence:
    return Sequence(0, [1, 2], SamplingParams(), 100, adapter=adapter, state=state)


def alone_for(merging: Merging, num_steps: int, adapter: int) -> None:
    for _ in range(num_steps):
        merging.before_step([sequence(adapter)])


@pytest.fixture
def network(folder: Path) -> CausalModel:
    """Adapter 1 and adapter 2 over a base, each of eight linears."""
    network = load(folder / "base").network
    for number in (1, 2):
        network.add_adapter(number, read_adapter(files_of(folder / str(number)), None))
    return network


def test_a_reply_in_16_bits_keeps_the_weights_it_began_with(network: CausalModel) -> None:
    merging = Merging(network, torch.bfloat16, 5)
    alone_for(merging, ENOUGH, 1)
    ours, stranger, late = sequence(1), sequence(2), sequence(1)
    merging.before_step([ours])
    ours.state = SequenceState.RUNNING

    merging.before_step([ours, stranger])
    stranger.state = SequenceState.RUNNING
    merging.before_step([ours, stranger, late])

    assert [ours.is_merged, stranger.is_merged, late.is_merged] == [True, False, False]


def test_in_16_bits_merging_waits_for_replies_that_run_without(network: CausalModel) -> None:
    merging = Merging(network, torch.bfloat16, 15)
    running = sequence(1, SequenceState.RUNNING)
    for _ in range(30):
        merging.before_step([running])
    second, third = sequence(1), sequence(1)

    merging.before_step([running, second])
    merging.before_step([third])

    assert [running.is_merged, second.is_merged, third.is_merged] == [False, False, True]


def test_a_reply_in_float32_changes_over_with_its_company(network: CausalModel) -> None:
    merging = Merging(network, torch.float32, 5)
    ours, stranger = sequence(1, SequenceState.RUNNING), sequence(2)
    found = []

    for present in [[ours]] * ENOUGH + [[ours, stranger], [ours]]:
        merging.before_step(present)
        found.append(ours.is_merged)

    assert found[-3:] == [True, False, True]


def test_a_copy_that_nobody_uses_goes_and_the_next_one_waits_twice_as_long(
    network: CausalModel,
) -> None:
    merging = Merging(network, torch.float32, 10)
    alone_for(merging, 10 + ENOUGH, 1)
    assert merging.copy is not None
    alone_for(merging, 9, 0)
    assert merging.copy is not None

    alone_for(merging, 1, 0)
    assert merging.copy is None

    alone_for(merging, 19, 1)
    alone_for(merging, 1, 0)
    alone_for(merging, ENOUGH, 0)
    assert merging.copy is None
    alone_for(merging, 20 + ENOUGH, 1)
    assert merging.copy is not None


def test_adapters_in_turn_are_never_merged(network: CausalModel) -> None:
    merging = Merging(network, torch.float32, 3)

    for turn in range(50):
        merging.before_step([sequence(1 + turn // 2 % 2)])

    assert merging.copy is None


def test_half_a_copy_is_forgotten_when_another_comes(network: CausalModel) -> None:
    merging = Merging(network, torch.float32, 1)
    alone_for(merging, 4, 1)

    alone_for(merging, 1, 2)
    alone_for(merging, 2 * ENOUGH, 2)

    assert merging.copy is not None
    assert merging.copy.adapter == 2


def test_without_room_for_a_copy_nothing_is_merged(network: CausalModel) -> None:
    merging = Merging(network, torch.float32, 1, lambda: 10_000)

    alone_for(merging, ENOUGH, 1)

    assert merging.copy is None


def test_a_cpu_has_room_for_some_gigabytes_at_most() -> None:
    assert 0 < room_on(torch.device("cpu")) <= MAX_BYTES_ON_CPU


def test_an_adapter_that_is_pushed_out_takes_its_copy_along(folder: Path) -> None:
    network = load(folder / "base").network
    merging = Merging(network, torch.float32, 1)
    table = AdapterTable(network, max_adapters=1, on_removed=merging.drop)
    alone_for(merging, ENOUGH, table.number([Adapter(files_of(folder / "1"))], ()))
    assert merging.copy is not None

    table.number([Adapter(files_of(folder / "2"))], ())

    assert merging.copy is None


def test_quantized_weights_are_not_merged(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    files = save_tiny_model(tmp_path / "base", intermediate_size=64)
    save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    model = load_model(files, "auto", "cpu", 0, lambda done, total: None, quantize="int8")
    engine = Engine(model, merge_after=1)

    for _ in range(2):
        generate(engine, [tmp_path / "adapter"])

    assert not engine.num_merged_bytes


def test_steps_over_a_copy_are_recorded_anew_for_each_copy(folder: Path) -> None:
    recorder = FakeRecorder()
    model, same = load(folder / "base"), load(folder / "base")
    engine = Engine(replace(model, record=recorder), merge_after=10)
    expected = generate(Engine(same), [folder / "1", None, folder / "2"])
    generate(engine, [folder / "1"])
    assert recorder.num_replayed < 5

    assert generate(engine, [folder / "1"]) == expected[:1]
    assert recorder.num_replayed > 15
    num_recorded = recorder.num_recorded
    assert generate(engine, [None]) == expected[1:2]
    assert recorder.num_recorded > num_recorded  # over the base's own weights
    for _ in range(4):
        num_replayed = recorder.num_replayed
        assert generate(engine, [folder / "2"]) == expected[2:]
    assert recorder.num_replayed > num_replayed + 15


def test_recordings_over_a_copy_go_with_it() -> None:
    made: list[DecodeGraphs] = []

    def make() -> DecodeGraphs:
        made.append(DecodeGraphs(lambda inputs: inputs.tokens, FakeRecorder(), 0, 1))
        return made[-1]

    recordings, copy = Recordings(make), MergedCopy(1, [])
    own, merged = recordings.over(None), recordings.over(copy)
    recordings.forget_dropped(copy)
    assert [recordings.over(None), recordings.over(copy)] == [own, merged]

    recordings.forget_dropped(None)

    assert recordings.over(copy) is not merged
    assert len(made) == 3
