"""The tree of errors: complete in its docstring, and worded as clients match it."""

from __future__ import annotations

import inspect
import re

import pytest

from olla import errors
from olla.errors import OllaError

CLASSES = dict(inspect.getmembers(errors, inspect.isclass))


def test_the_drawing_names_every_error() -> None:
    assert set(CLASSES) <= set(re.findall(r"\w+", errors.__doc__ or ""))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_is_in_the_tree(name: str) -> None:
    assert issubclass(CLASSES[name], OllaError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InvalidName("a b"), "invalid model name"),
        (errors.InvalidDigest("x"), "invalid digest format"),
        (errors.DigestMismatch("a", "b"), 'digest mismatch, expected "a", got "b"'),
        (errors.ModelNotFound("m"), "model 'm' not found"),
        (errors.ModelNotFound("m", 'model "m" is gone'), 'model "m" is gone'),
        (errors.BlobNotFound("sha256:0"), 'blob "sha256:0" not found'),
        (errors.SourceNotFound(), "pull model manifest: file does not exist"),
        (
            errors.ServerBusy(),
            "server busy, please try again.  maximum pending requests exceeded",
        ),
        (
            errors.RunnerDied(),
            "model runner has unexpectedly stopped, this may be due to resource limitations "
            "or an internal error, check ollama server logs for details",
        ),
        (errors.ApiError("no", status=500), "no"),
    ],
)
def test_errors_say_what_clients_match(error: OllaError, text: str) -> None:
    assert str(error) == text
