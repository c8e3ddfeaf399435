"""The dialect of a path."""

from __future__ import annotations

import pytest

from olla.server.dialects import ANTHROPIC, OLLAMA, OPENAI, Dialect, dialect_of


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/", OLLAMA),
        ("/api/chat", OLLAMA),
        ("/v10/chat", OLLAMA),
        ("/v1", OPENAI),
        ("/v1/", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/v1/messagesx", OPENAI),
        ("/v1/messages", ANTHROPIC),
        ("/v1/messages/count_tokens", ANTHROPIC),
    ],
)
def test_a_path_has_the_dialect_of_its_start(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect
