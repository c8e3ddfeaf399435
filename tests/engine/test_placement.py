"""Where layers go, on machines that are only described."""

from __future__ import annotations

import pytest

from olla.engine.placement import CPU, Gpu, Need, Plan, fallbacks, plan

NEED = Need(layer_bytes=(10,) * 4, other_bytes=20, step_bytes=5)
ENOUGH = NEED.total_bytes


def gpus(*free: int) -> tuple[Gpu, ...]:
    return tuple(Gpu(f"cuda:{index}", size) for index, size in enumerate(free))


@pytest.mark.parametrize(
    ("free", "num_gpu", "layers", "rest"),
    [
        ((), -1, [CPU] * 4, CPU),
        ((ENOUGH,), -1, ["cuda:0"] * 4, "cuda:0"),
        ((ENOUGH,), 0, [CPU] * 4, CPU),
        ((ENOUGH,), 2, ["cuda:0"] * 2 + [CPU] * 2, "cuda:0"),
        ((ENOUGH,), 99, ["cuda:0"] * 4, "cuda:0"),
        ((ENOUGH - 1,), -1, ["cuda:0"] * 3 + [CPU], "cuda:0"),
        ((45, 25), -1, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"], "cuda:0"),
        ((45, 15), -1, ["cuda:0", "cuda:0", "cuda:1", CPU], "cuda:0"),
        ((30,), -1, [CPU] * 4, CPU),
    ],
)
def test_layers_fill_the_gpus_in_order_and_the_rest_goes_to_the_cpu(
    free: tuple[int, ...], num_gpu: int, layers: list[str], rest: str
) -> None:
    assert plan(NEED, gpus(*free), num_gpu) == Plan(tuple(layers), rest)


def test_layers_that_are_asked_for_go_to_a_gpu_that_seems_full() -> None:
    assert plan(NEED, gpus(30), num_gpu=2).layers == ("cuda:0", "cuda:0", CPU, CPU)


@pytest.mark.parametrize(("main_gpu", "rest"), [(0, "cuda:0"), (1, "cuda:1"), (7, "cuda:0")])
def test_the_main_gpu_comes_first(main_gpu: int, rest: str) -> None:
    found = plan(NEED, gpus(ENOUGH, ENOUGH), main_gpu=main_gpu)

    assert found == Plan((rest,) * 4, rest)


def test_a_parameter_goes_where_its_layer_is() -> None:
    found = Plan(("cuda:1", CPU), "cuda:0")

    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.x", "lm_head.weight")
    assert [found.device_of(name) for name in names] == ["cuda:1", CPU, "cuda:0"]


def test_fewer_layers_are_tried_down_to_the_cpu_alone() -> None:
    found = list(fallbacks(Plan(("cuda:0",) * 5, "cuda:0")))

    assert [attempt.num_gpu_layers for attempt in found] == [2, 1, 0]
    assert found[-1] == Plan((CPU,) * 5, CPU)


def test_there_is_nothing_below_the_cpu() -> None:
    assert list(fallbacks(Plan((CPU,), CPU))) == []
