"""Which images a request may have."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from olla.errors import BadInput, CapabilityMissing
from olla.inference.images import MAX_IMAGE_BYTES, MAX_IMAGES, check_images
from olla.registry.model import Capability, Model
from tests.inference.conftest import FakeModel

SEES = (Capability.COMPLETION, Capability.VISION)
SEER = FakeModel(capabilities=SEES, files={"config.json": Path("/blobs/c")})


def _check(model: FakeModel, *images: bytes) -> None:
    check_images(cast(Model, model), images)


def test_as_many_images_as_there_may_be() -> None:
    _check(SEER, *[b"x"] * MAX_IMAGES)
    _check(SEER, bytes(MAX_IMAGE_BYTES))
    _check(FakeModel())


def test_too_many_images_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^101 images are too many; a request may have 100$"):
        _check(SEER, *[b"x"] * (MAX_IMAGES + 1))


def test_too_many_bytes_of_images_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^the images have 104857601 bytes; those of a request may"):
        _check(SEER, bytes(MAX_IMAGE_BYTES), b"x")


def test_a_model_that_does_not_see_is_named() -> None:
    with pytest.raises(CapabilityMissing) as caught:
        _check(FakeModel(), b"x")

    assert str(caught.value) == "registry.ollama.ai/library/m:latest does not support vision"


def test_a_gguf_model_with_a_projector_is_told_from_one_that_sees() -> None:
    with pytest.raises(CapabilityMissing, match="whose projector for images olla does not run"):
        _check(FakeModel(capabilities=SEES), b"x")
