"""Which device each layer of a model goes to, decided before anything is loaded.

A plan is made from sizes alone: the GPUs' free memory, and what the weights, the cache and a step
need. Layers go to the GPUs in order from `main_gpu` on, the rest to the CPU; what is not in a
layer (embedding, head) goes where the first GPU layers are. When memory runs out all the same,
`fallbacks` says what to try next. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CPU = "cpu"
_LAYERS = "model.layers."
_STEP_BYTES = 512 * 2**20  # a step's own tensors and what the libraries keep on each GPU


@dataclass(frozen=True, slots=True)
class Gpu:
    """`name` is the device's, such as "cuda:1"."""

    name: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes as they will be in memory; `layer_bytes` has the cache of a layer's share in it."""

    layer_bytes: tuple[int, ...]
    other_bytes: int
    step_bytes: int = _STEP_BYTES

    @property
    def total_bytes(self) -> int:
        return sum(self.layer_bytes) + self.other_bytes + self.step_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """The device of each layer, and of what is in none."""

    layers: tuple[str, ...]
    rest: str

    @property
    def num_gpu_layers(self) -> int:
        return sum(device != CPU for device in self.layers)

    def device_of(self, parameter: str) -> str:
        """Where a parameter of this name goes."""
        number = parameter.removeprefix(_LAYERS).partition(".")[0]
        if parameter.startswith(_LAYERS) and number.isdigit() and int(number) < len(self.layers):
            return self.layers[int(number)]
        return self.rest

    def __str__(self) -> str:
        return f"{self.num_gpu_layers} of {len(self.layers)} layers on the GPU"


def plan(need: Need, gpus: Sequence[Gpu], num_gpu: int = -1, main_gpu: int = 0) -> Plan:
    """Where a model goes.

    Args:
        num_gpu: how many layers go to GPUs, whether or not they seem to fit; -1 as many as do.
        main_gpu: the GPU that gets the first ones; one that is not there stands for the first.
    """
    first = main_gpu if main_gpu < len(gpus) else 0
    order = [*gpus[first:], *gpus[:first]]
    room = {gpu.name: gpu.free_bytes - need.step_bytes for gpu in order}
    if not order or num_gpu == 0:
        return _on_cpu(need)
    main = order[0].name
    room[main] -= need.other_bytes
    wanted = len(need.layer_bytes) if num_gpu < 0 else min(num_gpu, len(need.layer_bytes))
    layers = []
    for size in need.layer_bytes[:wanted]:
        device = next((name for name in room if room[name] >= size), CPU if num_gpu < 0 else main)
        if device == CPU:
            break
        room[device] -= size
        layers.append(device)
    if not layers:
        return _on_cpu(need)
    return Plan((*layers, *[CPU] * (len(need.layer_bytes) - len(layers))), main)


def fallbacks(tried: Plan) -> Iterator[Plan]:
    """What to try when a plan ran out of memory: half as many layers on GPUs, ..., the CPU."""
    count = tried.num_gpu_layers
    while count > 1:
        count //= 2
        yield Plan((*tried.layers[:count], *[CPU] * (len(tried.layers) - count)), tried.rest)
    if tried.num_gpu_layers or tried.rest != CPU:
        yield Plan((CPU,) * len(tried.layers), CPU)


def _on_cpu(need: Need) -> Plan:
    return Plan((CPU,) * len(need.layer_bytes), CPU)
