"""Whether a request's images may be put to its model: can it see, and are they few enough.

Looks at counts and sizes; what an image shows is the runner's to find out.
"""

from __future__ import annotations

from collections.abc import Sequence

from olla.errors import BadInput, CapabilityMissing
from olla.registry.model import Capability, Model

MAX_IMAGES = 100
MAX_IMAGE_BYTES = 100 * 2**20


def check_images(model: Model, images: Sequence[bytes]) -> None:
    """
    Raises:
        CapabilityMissing: the model cannot look at images.
        BadInput: they are too many, or too large together.
    """
    if not images:
        return
    if Capability.VISION not in model.capabilities:
        raise CapabilityMissing(f"{model.name.full} does not support {Capability.VISION}")
    if any(name.endswith(".gguf") for name in model.files):
        raise CapabilityMissing(
            f"{model.name.full} is a GGUF model, whose projector for images olla does not run; "
            "create it from the model's safetensors directory to send images"
        )
    if len(images) > MAX_IMAGES:
        raise BadInput(f"{len(images)} images are too many; a request may have {MAX_IMAGES}")
    num_bytes = sum(map(len, images))
    if num_bytes > MAX_IMAGE_BYTES:
        raise BadInput(
            f"the images have {num_bytes} bytes; those of a request may have {MAX_IMAGE_BYTES} "
            "together, so make them smaller"
        )
