"""Vision: the part of a model that looks at images, and the states that then stand for them.

Knows transformers' models of the kind image-text-to-text; how a prompt writes images is not its
business (engine/sights.py). An image is looked at once as long as it is remembered. Some models
add more of what they saw behind their first layers, level by level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from olla.engine.image_places import Image
from olla.engine.models.batch import Batch
from olla.engine.recent import Recent

_KEPT_BYTES = 256 * 2**20


class Vision:
    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._seen: Recent[int, Tensor] = Recent(_KEPT_BYTES)
        # The deeper levels of the images in the batch: its rows [start, end), and their states.
        self._deeper: list[tuple[int, int, Tensor]] = []
        levels = getattr(model.config.vision_config, "deepstack_visual_indexes", ())
        for level in range(len(levels)):
            layer = model.get_decoder().layers[level]
            layer.register_forward_hook(self._hook(level))

    def embed(self, batch: Batch) -> Tensor:
        """The states (num_tokens, hidden_size) that a batch's tokens and images begin as."""
        states: Tensor = self._model.get_input_embeddings()(batch.tokens)
        self._deeper = []
        for item in batch.images:
            first, last = item.first, item.first + item.end - item.start
            seen = self._levels(item.image)[:, first:last].to(states)
            states[item.start : item.end] = seen[0]
            self._deeper.append((item.start, item.end, seen[1:]))
        return states

    def _levels(self, image: Image) -> Tensor:
        """(num_levels, num_tokens, hidden_size)."""
        found = self._seen.get(image.identity)
        if found is None:
            inputs = {name: tensor.to(self._device) for name, tensor in image.inputs.items()}
            seen = self._model.get_image_features(**inputs, return_dict=True)
            levels = [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]
            found = torch.stack([torch.cat(tuple(level)) for level in levels])
            self._seen.put(image.identity, found, found.nbytes)
        return found

    def _hook(self, level: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for start, end, states in self._deeper:
                output[0, start:end] += states[level]
            return output

        return add
