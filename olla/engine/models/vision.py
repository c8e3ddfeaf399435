"""Vision: the part of a model that looks at images, and the states that then stand for them.

Knows transformers' models of the kind image-text-to-text; how a prompt writes images is not its
business (engine/sights.py). An image is looked at once as long as it is remembered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from olla.engine.image_places import Image
from olla.engine.models.batch import Batch
from olla.engine.recent import Recent

_KEPT_BYTES = 256 * 2**20


class Vision:
    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._seen: Recent[Tensor] = Recent(_KEPT_BYTES)

    def embed(self, batch: Batch) -> Tensor:
        """The states (num_tokens, hidden_size) that a batch's tokens and images begin as."""
        states: Tensor = self._model.get_input_embeddings()(batch.tokens)
        for item in batch.images:
            seen = self._states(item.image)[item.first : item.first + item.end - item.start]
            states[item.start : item.end] = seen.to(states)
        return states

    def _states(self, image: Image) -> Tensor:
        """(num_tokens, hidden_size)."""
        found = self._seen.get(image.identity)
        if found is None:
            inputs = {name: tensor.to(self._device) for name, tensor in image.inputs.items()}
            seen = self._model.get_image_features(**inputs, return_dict=True).pooler_output
            found = torch.cat(tuple(seen))
            self._seen.put(image.identity, found, found.nbytes)
        return found
