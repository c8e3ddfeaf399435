"""Where a request's model is to run, read from its name."""

from __future__ import annotations

import time

import pytest

from olla.errors import CloudDisabled
from olla.server.references import local_text


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("m", "m"),
        ("m:local", "m"),
        (" m:20b:LOCAL ", "m:20b"),
        ("my-cloud", "my-cloud"),
        ("host:1/n/m-cloud", "host:1/n/m-cloud"),
        ("m:x-local", "m:x-local"),
        ("-cloud", "-cloud"),
    ],
)
def test_what_is_here_keeps_its_name(text: str, model: str) -> None:
    assert local_text(text) == model


@pytest.mark.parametrize("text", ["m:cloud", "m:20b:Cloud", "m:20b-CLOUD", "h:1/n/m:t-cloud"])
def test_cloud_models_are_refused(text: str) -> None:
    with pytest.raises(CloudDisabled):
        local_text(text)


def test_a_hostile_name_is_read_in_linear_time() -> None:
    """On the event loop, where nothing else runs meanwhile."""
    text = ":" * 1_000_000
    started = time.process_time()

    assert local_text(text) == text

    assert time.process_time() - started < 1.0
